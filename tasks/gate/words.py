"""The verdict in words: the headline with its interval, prompting, power, and what to be careful about."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from configs.measures import DEGENERATE, measure_of
from configs.wire import HELD_OUT
from configs.wire_evidence import Difference
from tasks.decks.prompting import prompting_sentence
from tasks.evidence.table import aligned, datasets, measures_in, rows_of, values_of
from tasks.gate.compare import CHANCE, Pair, Run, find, other_tokens, scores_on
from tasks.gate.constant import constant_answers
from tasks.gate.rules import (
    LEAST_LOSS,
    LEVEL,
    answers_judged_by,
    changed,
    deciding_measure,
    is_against_chance,
    rival,
)
from tasks.measures.measured import mean_values
from tasks.retained.memorization import memorization_sentence
from tasks.retained.thresholds import GENERAL_TEXT, MEMORIZED_HELD_OUT, MEMORIZED_TRAINING, Kept, lost_sentences

NOTHING_TELLS = "Nothing tells"
"""The headline begins so where the measure that decides could not be compared."""
_MOST_DEGENERATE = 0.5
_MOST_NAMED = 4


def headline(run: Run, known: Sequence[Difference], is_better: bool) -> str:
    """Return one or two sentences: is the tuned model better than its base, by what, and how sure that is."""
    deciding = deciding_measure(run)
    versus = rival(run)
    found = find(known, Pair(run.candidate, versus, HELD_OUT, deciding))
    named = "chance" if versus == CHANCE else run.start_words
    if found is None:
        return f"{NOTHING_TELLS} which model is better: {_missing(run, deciding)}."
    measure = found.shown
    before, after = (measure.short_number.format(value) for value in (found.before, found.after))
    change = (
        f"{measure.heading} {before} -> {after}: {measure.difference(found.difference)}, 95 % interval "
        f"{found.interval_words}, on {found.rows:,} held-out rows."
    )
    if is_better:
        return f"Better than {named}. {change}"
    if found.gain_interval[1] < 0 and found.p_value < LEVEL:
        return f"Worse than {named}. {change}"
    if 0 < found.gain < LEAST_LOSS and deciding == "eval_loss":
        return f"Not better than {named}. {change} Less than {LEAST_LOSS:g} nats a token shows in no table."
    if found.gain_interval[0] > 0 and found.p_value < LEVEL:
        return f"Better than {named} by what decides, but a rule of the gate is broken. {change}"
    return f"Not told apart from {named}. {change}"


def prompting(run: Run, known: Sequence[Difference]) -> list[str]:
    """Return the sentence on whether tuning beat prompting with examples; nothing where that was not scored."""
    key = deciding_measure(run)
    found = find(known, Pair(run.candidate, "few_shot", HELD_OUT, key))
    if found is None:
        return []
    low, high = found.bounds
    # of the base itself: another model's tokenizer, or a server, counts tokens of its own
    with_examples, without = (_mean_prompt(run, name) for name in ("few_shot", "base"))
    return [
        prompting_sentence(
            shots=run.config.evaluate.few_shot,
            few_shot=found.before,
            tuned=found.after,
            low=low,
            high=high,
            saved_tokens=with_examples - without,
            measure=found.shown,
            name="tuning" if run.candidate == "tuned" else run.candidate,
        )
    ]


def beside_others(run: Run, known: Sequence[Difference]) -> list[str]:
    """Return a sentence for each of `evaluate.others`: is the tuned model better, by how much, on which measure."""
    answers = answers_judged_by(run)
    sentences = []
    for title in (other.title for other in run.config.evaluate.others if other.title in run.models):
        keys = dict.fromkeys((deciding_measure(run), answers))
        found = next((own for key in keys if (own := find(known, Pair(run.candidate, title, HELD_OUT, key)))), None)
        if found is None:
            sentences.append(f"No measure compares {run.candidate} with {title}.")
            continue
        low, high = found.gain_interval
        words = "Better than" if low > 0 else "Worse than" if high < 0 else "Not told apart from"
        measure = found.shown
        before, after = (measure.short_number.format(value) for value in (found.before, found.after))
        sentences.append(
            f"{words} {title}: {measure.name_in_sentences} {before} -> {after}, {measure.difference(found.difference)} "
            f"(95 % interval {found.interval_words}), on {found.rows:,} rows."
        )
        sentences += _unanswered(run, title)
    return sentences


def _unanswered(run: Run, title: str) -> list[str]:
    """Return what a reader must know of an endpoint that did not answer all rows."""
    measured = next(iter(run.scores(title).answers), None)
    counts = [] if measured is None else measured.not_counted
    rows = sum(count.rows for count in counts)
    reasons = ", ".join(f"{count.rows:,} {count.reason}" for count in counts)
    return [f"{title} did not answer {rows:,} rows ({reasons}); these do not count for it."] if rows else []


def _mean_prompt(run: Run, name: str) -> float:
    """Return the mean tokens of a prompt, over the rows that the base with examples has."""
    tables = aligned(*(rows_of(run.models[model].table) for model in (name, "few_shot")))
    return float(np.mean(tables[0]["prompt_tokens"].to_numpy()))


def cautions(run: Run, known: Sequence[Difference]) -> list[str]:
    """Return what a reader must know beside the headline: wrong answers, faults of answers, rows left out, power."""
    deciding = deciding_measure(run)
    tuned = run.scores(run.candidate)
    found = []
    answers = answers_judged_by(run)
    if deciding == "eval_loss" and answers:
        own = tuned.measured(answers)
        if own is not None and own.value == 0:
            title = measure_of(answers, [tuned]).title
            found.append(
                f"The loss decides, but no answer is right: {title} is 0 on {own.rows:,} answers. Read some before "
                "you trust the verdict."
            )
    for key in DEGENERATE:
        own = tuned.measured(key)
        if own is not None and own.value is not None and own.value >= _MOST_DEGENERATE:
            found.append(f"{own.value:.0%} of the answers of {run.candidate}: {measure_of(key, [tuned]).title}.")
    found += constant_answers(run)
    left_out: dict[str, list[str]] = {}
    for measured in tuned.answers:
        failed = sum(count.rows for count in measured.failed)
        title = measure_of(measured.key, [tuned]).title
        if failed:
            reasons = ", ".join(f"{count.rows:,} {count.reason}" for count in measured.failed)
            found.append(f"{title}: {failed:,} of {measured.rows:,} answers count as wrong ({reasons}).")
        if measured.not_counted:
            number = sum(count.rows for count in measured.not_counted)
            reasons = ", ".join(f"{count.rows:,} {count.reason}" for count in measured.not_counted)
            left_out.setdefault(f"{number:,} rows do not count ({reasons}).", []).append(title)
    for words, titles in left_out.items():
        # what an endpoint did not answer counts for no measure
        named = ", ".join(titles) if len(titles) < _MOST_NAMED else f"{len(titles)} measures of answers"
        found.append(f"{named}: {words}")
    found += _lost(run)
    found += _memorized(run)
    found += _left_out_of_prompts(run)
    found += _of_other_tokenizers(run, known)
    versus = rival(run)
    difference = find(known, Pair(run.candidate, versus, HELD_OUT, deciding))
    if difference is not None:
        found += _on_power(difference)
    return found


def _of_other_tokenizers(run: Run, known: Sequence[Difference]) -> list[str]:
    """Return which losses are not compared, and the bits per byte of general text, which are."""
    sets = (HELD_OUT, GENERAL_TEXT)
    others = [
        name
        for name in run.models
        if name != run.candidate and any(other_tokens(run.models, run.candidate, name, own) for own in sets)
    ]
    if not others:
        return []
    found = [f"The loss of {', '.join(others)} is over other tokens, and is not compared."]
    for name in others:
        compared = find(known, Pair(run.candidate, name, GENERAL_TEXT, "bits_per_byte"))
        found += [f"Bits are comparable: {changed(compared)}."] if compared is not None else []
    return found


def _memorized(run: Run) -> list[str]:
    """Return which shares of training and of held-out rows the model completes word for word, and the reasons why rows
    do not count; nothing where it was not asked to."""
    sets = {other.name: own for other in run.models[run.candidate].evaluation.others
            if (own := other.scores.measured("memorized")) is not None}  # fmt: skip
    named = [name for name in (MEMORIZED_TRAINING, MEMORIZED_HELD_OUT) if name in sets]
    if not named:
        return []
    table = run.models[run.candidate].table
    training, held_out = (
        values_of(rows_of(table, name), "memorized") if name in sets else mean_values([])
        for name in (MEMORIZED_TRAINING, MEMORIZED_HELD_OUT)
    )
    found = [memorization_sentence(training, held_out, run.candidate)]
    for name in named:
        left_out = sum(count.rows for count in sets[name].not_counted)
        if left_out:
            reasons = ", ".join(f"{count.rows:,} {count.reason}" for count in sets[name].not_counted)
            found.append(f"{left_out:,} of the {name} do not count ({reasons}).")
    return found


def _lost(run: Run) -> list[str]:
    """Return what was lost, where the config has rules of its own: without them, the rules of the objective warn."""
    if not run.config.gate.rules:
        return []
    table = run.models[run.candidate].table
    kept = []
    for name in datasets(table):
        before, after = (scores_on(run.models, model, name) for model in (run.start, run.candidate))
        for key in measures_in(rows_of(table, name)) if before and after else ():
            kept.append(Kept(name, key, before[0].value(key), after[0].value(key)))
    return lost_sentences(kept, run.candidate)


def _left_out_of_prompts(run: Run) -> list[str]:
    """Return how many held-out rows the base with examples has not, because they did not fit."""
    if "few_shot" not in run.models:
        return []
    whole, fitting = (rows_of(run.models[name].table).num_rows for name in (run.candidate, "few_shot"))
    if fitting >= whole:
        return []
    return [
        f"{whole - fitting:,} of {whole:,} held-out rows do not fit with the examples: prompting is judged on the rest."
    ]


def _on_power(found: Difference) -> list[str]:
    measure = found.shown
    lines = []
    if found.detectable is not None and found.bounds[0] <= 0 <= found.bounds[1]:
        smallest = measure.difference(found.detectable).lstrip("+")
        lines.append(
            f"{found.rows:,} rows show a difference of {smallest} or more with 80 % power; a smaller one needs more "
            "rows."
        )
    return lines


def _missing(run: Run, deciding: str) -> str:
    has_start = is_against_chance(run) or run.scores(run.start).value(deciding) is not None
    has_tuned = run.scores(run.candidate).value(deciding) is not None
    title = _title(run, deciding)
    if has_start and has_tuned:
        lacking = "which no row has of both models"
    elif has_tuned:
        lacking = "which only the tuned model has"
    elif has_start:
        lacking = "which the tuned model does not have"
    else:
        lacking = "which neither model has"
    return f"{run.config.train.objective} is judged by the {title}, {lacking}"


def _title(run: Run, key: str) -> str:
    try:
        return measure_of(key, [own.evaluation.scores for own in run.models.values()]).name_in_sentences
    except KeyError:
        return key

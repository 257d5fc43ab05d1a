"""The evaluation Deck: tables and charts of scores, and samples (prompt, expected, before, after)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from configs.measures import Scores, formatted, headlines, measure_of, shown_measures
from configs.printable import one_line, table_cell
from configs.schema import EvaluateConfig
from configs.wire import Evaluation, Prediction
from tasks.decks import charts, html
from tasks.decks.answers import ComparedAnswer, render_answers
from tasks.decks.labels import render_labels
from tasks.measures.labels import label_table
from tasks.measures.measured import AnsweredRow

_MIB = 2**20


def scored_in_bits(evaluate: EvaluateConfig) -> str:
    """Return a paragraph on models that were scored in fewer bits than they have; empty where none was."""
    if evaluate.load_in == "as_saved":
        return ""
    words = "Models were loaded in 4 bits (NF4) for scoring, as evaluate.load_in says: their own scores may differ."
    return html.paragraph(words, "warn")


def render_scores(evaluations: Mapping[str, Evaluation], num_samples: int) -> str:
    """Return the section on scores. `evaluations` holds `base`, `tuned`, and the quantized models.

    Without a tuned model, the first two are compared, or one is shown alone.
    """
    before, after = compared_models(evaluations)
    parts = [
        html.heading("Held-out scores"),
        html.table(score_rows(evaluations), score_header(evaluations)),
        html.paragraph(_what_was_scored(evaluations[before].scores), "note"),
        *(html.paragraph(line, "note") for line in quantized_shares(evaluations)),
        *_score_charts(evaluations),
    ]
    if _names_of_sets(evaluations):
        parts += [
            html.heading("Scores on further evaluation sets", 3),
            *(html.paragraph(f"Warning: {warning}", "warn") for warning in worse_elsewhere(evaluations)),
            html.table(other_rows(evaluations), other_header(evaluations)),
        ]
    answers = compared_answers(evaluations[before].predictions, evaluations[after].predictions)
    is_training = "tuned" in evaluations
    labels = ("before", "after") if is_training else (before if before != after else "", after)
    parts.append(render_answers(answers, num_samples, *labels))
    compared = evaluations[after]
    if any(own.name in ("accuracy", "macro_f1") for own in compared.scores.answers):
        rows = [AnsweredRow(own.row_id, own.prompt, own.expected, own.answer) for own in compared.predictions]
        title = "Labels, tuned model" if is_training else f"Labels, {after}"
        parts += [html.heading(title, 3), render_labels(label_table(rows))]
    return "".join(parts)


def compared_models(evaluations: Mapping[str, Evaluation]) -> tuple[str, str]:
    """Return the names of the two models whose answers are shown beside each other; equal where there is one."""
    if "tuned" in evaluations:
        return "base", "tuned"
    names = list(evaluations)
    return names[0], names[min(1, len(names) - 1)]


def score_header(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return the names of the columns of `score_rows`."""
    return ["model", *shown_measures(evaluation.scores for evaluation in evaluations.values()), "size"]


def score_rows(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, ...]]:
    """Return one line of formatted scores for each model, in the order of `score_header`."""
    columns = score_header(evaluations)[1:-1]
    return [
        (
            name,
            *(formatted(column, evaluation.scores) for column in columns),
            f"{evaluation.scores.size_bytes / _MIB:,.1f} MiB" if evaluation.scores.size_bytes else "-",
        )
        for name, evaluation in evaluations.items()
    ]


def quantized_shares(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return a line on how much of the quantized copies is quantized; none where no copy says."""
    shares = {name: evaluation.scores.quantized_share for name, evaluation in evaluations.items()}
    known = [f"{name} {share:.1%}" for name, share in shares.items() if share is not None]
    words = "of the weights of linear layers, without embeddings and output head"
    return [f"Quantized {words}: {', '.join(known)}."] if known else []


def other_header(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return the names of the columns of `other_rows`."""
    scores = (other.scores for evaluation in evaluations.values() for other in evaluation.others)
    return ["set", "model", *shown_measures(scores), "sequences"]


def other_rows(evaluations: Mapping[str, Evaluation]) -> list[tuple[str, ...]]:
    """Return one line for each further evaluation set and model, in the order of `other_header`."""
    columns = other_header(evaluations)[2:-1]
    return [
        (
            further.name,
            name,
            *(formatted(column, further.scores) for column in columns),
            f"{further.scores.loss_rows:,}" if further.scores.loss_rows else "-",
        )
        for own in _names_of_sets(evaluations)
        for name, evaluation in evaluations.items()
        # prompting with examples is scored on the held-out rows alone, and the base completes no training rows
        for further in evaluation.others
        if further.name == own
    ]


def _names_of_sets(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return the further sets that any model was scored on, those of the first model first."""
    return list(dict.fromkeys(further.name for evaluation in evaluations.values() for further in evaluation.others))


def worse_elsewhere(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return a warning for each further evaluation set on which training raised the loss."""
    if "tuned" not in evaluations:
        return []
    of_tuned = {other.name: other for other in evaluations["tuned"].others}
    pairs = [(base, of_tuned[base.name]) for base in evaluations["base"].others if base.name in of_tuned]
    return [
        f"on {base.name} the loss went up from {base.scores.eval_loss:.3f} to {tuned.scores.eval_loss:.3f}"
        for base, tuned in pairs
        if base.scores.eval_loss is not None
        and tuned.scores.eval_loss is not None
        and tuned.scores.eval_loss > base.scores.eval_loss
    ]


def _what_was_scored(scores: Scores) -> str:
    sentences = []
    if scores.eval_loss is not None:
        sentences.append(
            f"Loss over {scores.loss_rows:,} held-out sequences ({scores.loss_tokens:,} tokens); answers to "
            f"{scores.generated_rows:,} of them."
        )
    if scores.preference_margin is not None:
        sentences.append(
            "Preferences are by the log-likelihood of the answers in nats, for a reward model by its score: the two "
            "kinds of margin cannot be compared."
        )
    return " ".join(sentences)


def _score_charts(evaluations: Mapping[str, Evaluation]) -> list[str]:
    """Return a bar chart of each headline that all models have, in one unit."""
    kinds = {evaluation.scores.is_of_reward_model for evaluation in evaluations.values()}
    drawn = []
    scores = [evaluation.scores for evaluation in evaluations.values()]
    for name in headlines(scores):
        measure = measure_of(name, scores)
        if measure.reward_model_unit is not None and len(kinds) > 1:
            continue
        unit = measure.reward_model_unit if measure.reward_model_unit and kinds == {True} else measure.chart_unit
        values = [evaluation.scores.value(name) for evaluation in evaluations.values()]
        known = [value for value in values if value is not None and math.isfinite(value)]
        if len(known) == len(values):
            identifier, text = name.replace("_", "-"), measure.short_number
            drawn.append(charts.bars(list(evaluations), known, identifier, measure.heading, unit or "", text))
    return drawn


def compared_answers(base: Sequence[Prediction], tuned: Sequence[Prediction]) -> list[ComparedAnswer]:
    """Return the rows that both models answered, in the order of the tuned model's; a reward model has no answers."""
    before = {prediction.row_id: prediction for prediction in base}
    return [
        ComparedAnswer(
            after.row_id,
            after.prompt,
            after.expected,
            before[after.row_id].answer,
            after.answer,
            before[after.row_id].is_right,
            after.is_right,
        )
        for after in tuned
        if after.row_id in before
    ]


def text_table(evaluations: Mapping[str, Evaluation]) -> str:
    """Return the scores as an aligned table; further evaluation sets follow in a second one, with warnings."""
    table = _aligned([tuple(score_header(evaluations)), *score_rows(evaluations)])
    others = other_rows(evaluations)
    if not others:
        return table
    warnings = [f"warning: {one_line(warning)}" for warning in worse_elsewhere(evaluations)]
    return "\n".join([table, "", _aligned([tuple(other_header(evaluations)), *others]), *warnings])


def _aligned(table: Sequence[tuple[str, ...]]) -> str:
    lines = [[one_line(table_cell(cell)) for cell in line] for line in table]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if column == 0 or lines[0][column] == "model" else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )

"""Turn tables of rows into the scores of a model: join the parts, measure the answers, count."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from configs.errors import ArtifactError
from configs.measures import MEASURES, OF_ANSWERS, Measured, ReasonCount, Scores, headlines, measure_of
from configs.schema import EvaluateConfig, ModelConfig
from configs.schema.measures import MeasureConfig
from configs.schema.train import RewardFunctionConfig
from configs.wire import HELD_OUT, Evaluation, Part, SetScores
from tasks.evaluate.part import FACTS_FILE, TABLE_FILE, ModelFacts, check_rows, score_part
from tasks.evaluate.subject import load_subject
from tasks.evidence.table import (
    datasets,
    join_tables,
    measures_in,
    predictions_of,
    read_table,
    rows_of,
    score_of,
    values_of,
    with_measures,
    write_table,
)
from tasks.measures.defaults import suited_measures
from tasks.measures.measured import AnsweredRow, RowValues, score
from tasks.measures.table import measure_rows
from tasks.retained.degenerate import degenerate_values

# how the log says what a measure was taken over, by its source
_COUNTED_OVER = {"tokens": " over {0.loss_rows} rows", "answers": " of {0.generated_rows}"}


def evaluate_model(
    config: EvaluateConfig,
    model_config: ModelConfig,
    model_directory: Path,
    rows: pd.DataFrame,
    tokenizer_directory: Path,
    end_token_ids: list[int],
    rewards: Sequence[RewardFunctionConfig] = (),
    reward_models: Sequence[Path] = (),
    table: Path | None = None,
) -> Evaluation:
    """Return the scores of the model on `rows` (as the tokenize stage wrote them), and its answers.

    A language model has loss and perplexity on wanted answers, measures of its greedy answers, and the mean reward that
    these answers get from `rewards` and from the models in the directories `reward_models`. A language model and a
    reward model both have preference accuracy and margin, where rows hold preferences. The table of rows is written to
    `table`, if it is given.

    Raises:
        ModelError: the model cannot be loaded, its loss is not a number, or a reward model has another vocabulary.
        ConfigError: a measure or a reward function cannot be used.
        DataError: no held-out row is left.
    """
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        check_rows(config, rows)
        subject = load_subject(
            config, model_config, model_directory, tokenizer_directory, end_token_ids, rewards, reward_models
        )
        score_part(subject, model_directory, rows, [], Part(number=0, of=1), folder)
        return join_parts(config.measures, [folder], table or folder / "joined.parquet")


def join_parts(measures: Sequence[MeasureConfig], parts: Sequence[Path], output: Path) -> Evaluation:
    """Write the joined table of rows, with the measures of answers, to `output`; return the scores.

    `parts` are the folders that `score_part` wrote, in any order. Without `measures`, those that suit the expected
    answers are taken.

    Raises:
        ArtifactError: the parts are not all parts of one evaluation.
        ConfigError: a measure does not fit the rows, or a function fails.
    """
    found = sorted(
        ((ModelFacts.model_validate_json((part / FACTS_FILE).read_text("utf-8")), part) for part in parts),
        key=lambda pair: pair[0].part.number,
    )
    if [(facts.part.number, facts.part.of) for facts, _ in found] != [(n, len(found)) for n in range(len(found))]:
        raise ArtifactError(f"the {len(found)} parts of the scores do not belong to one run; score the model again")
    facts = found[0][0]
    table = join_tables([read_table(part / TABLE_FILE) for _, part in found])
    expected = [row.expected for row in _answered(rows_of(table))]
    configs, note = (list(measures), "") if measures else suited_measures(expected)
    measured_sets, scores = [], {}
    found_sets = datasets(table)
    # a part may have no row of a set, so the order of the rows that were joined is not that of the sets
    for name in [*(name for name in facts.sets if name in found_sets), *(n for n in found_sets if n not in facts.sets)]:
        of_set, answers = _measured(rows_of(table, name), configs, facts.not_counted.get(name, {}))
        if name == HELD_OUT and facts.unanswered:
            unanswered = _reasons(facts.unanswered)
            answers = [own.model_copy(update={"not_counted": [*own.not_counted, *unanswered]}) for own in answers]
        measured_sets.append(of_set)
        scores[name] = _scores(of_set, answers, facts)
    whole = join_tables(measured_sets)
    write_table(whole, output)
    return Evaluation(
        scores=scores.pop(HELD_OUT),
        predictions=predictions_of(rows_of(whole), [config.key for config in configs]),
        others=[SetScores(name=name, scores=own) for name, own in scores.items()],
        parity=facts.parity,
        model_digest=facts.model_digest,
        kept_losses=_losses_of(rows_of(whole), facts.kept_row_ids),
        measures_note=note,
    )


def score_line(scores: Scores) -> str:
    """Return the headline scores that a model has, as a line for the log.

    A set without any, such as refusals, has its own measures, and what of it does not count.
    """
    facts = []
    for key in headlines([scores]):
        value, measure, answered = scores.value(key), measure_of(key, [scores]), scores.measured(key)
        if value is not None:
            over = f" of {answered.rows}" if answered else _COUNTED_OVER.get(measure.source, "").format(scores)
            facts.append(f"{measure.title} {measure.number.format(value)}{over}")
    return ", ".join(facts or map(_measured_line, scores.answers)) or "no score"


def _measured_line(measured: Measured) -> str:
    measure = MEASURES[measured.name]
    value = "-" if measured.value is None else measure.number.format(measured.value)
    left_out = "; ".join(f"{count.rows:,} not counted: {count.reason}" for count in measured.not_counted)
    return f"{measure.title} {value} of {measured.rows:,}" + (f" ({left_out})" if left_out else "")


def _answered(table: pa.Table) -> list[AnsweredRow]:
    """Return the rows of a set that were answered."""
    columns = [table[name].to_pylist() for name in ("row_id", "prompt", "expected", "answer")]
    return [
        AnsweredRow(row_id, prompt, expected.strip(), answer)
        for row_id, prompt, expected, answer in zip(*columns, strict=True)
        if answer is not None
    ]


def _measured(
    table: pa.Table, configs: Sequence[MeasureConfig], not_counted: Mapping[str, Mapping[str, int]]
) -> tuple[pa.Table, list[Measured]]:
    """Return a set's table with the measures of its answers, and these over the whole set.

    `not_counted` has the reasons of the measures that the set has from the beginning; one may count no row at all.
    """
    known = measures_in(table)
    found = [key for key in OF_ANSWERS if key in known or key in not_counted]
    if found:
        # a set of its own kind, such as refusals: its answers have no expected texts
        return table, [_measured_of(table, key, not_counted.get(key, {})) for key in found]
    answered = _answered(table)
    if not answered:
        return table, []
    places = np.flatnonzero([answer is not None for answer in table["answer"].to_pylist()])
    by_key = {"exact_match": MeasureConfig(name="exact_match")} | {config.key: config for config in configs}
    values = measure_rows(list(by_key.values()), answered) | degenerate_values(table.take(places))
    results = []
    for key, measure in values.items():
        counted, config = np.isfinite(measure.values), by_key.get(key)
        name = key if config is None else config.name
        results.append(
            Measured(
                key=key,
                name=name,
                value=score(measure.sums.sum(axis=0), measure.reduction) if counted.any() else None,
                rows=int(counted.sum()),
                lower_is_better=MEASURES[name].lower_is_better or (config is not None and config.lower_is_better),
                not_counted=_reasons(measure.not_counted),
                failed=_reasons(measure.failed),
            )
        )
    spread = {key: _spread(measure, places, table.num_rows) for key, measure in values.items()}
    return with_measures(table, spread), results


def _measured_of(table: pa.Table, key: str, not_counted: Mapping[str, int]) -> Measured:
    value, rows = score_of(table, key)
    return Measured(
        key=key,
        name=key,
        value=value,
        rows=rows,
        lower_is_better=MEASURES[key].lower_is_better,
        not_counted=_reasons(not_counted),
    )


def _reasons(counts: Mapping[str, int]) -> list[ReasonCount]:
    return [ReasonCount(reason=reason, rows=rows) for reason, rows in counts.items() if rows]


def _spread(measure: RowValues, places: np.ndarray, num_rows: int) -> RowValues:
    """Return a measure of answered rows, at `places`, as one of all rows of the set."""
    values = np.full(num_rows, np.nan)
    values[places] = measure.values
    sums = np.zeros((num_rows, measure.sums.shape[1]))
    sums[places] = measure.sums
    return RowValues(values, sums, measure.reduction)


def _scores(table: pa.Table, answers: list[Measured], facts: ModelFacts) -> Scores:
    known = set(measures_in(table))

    def own(key: str) -> float | None:
        return score_of(table, key)[0] if key in known else None

    loss, tokens = own("eval_loss"), 0
    if loss is not None:
        tokens = int(values_of(table, "eval_loss").sums[:, 1].sum())
    return Scores(
        eval_loss=loss,
        perplexity=None if loss is None else math.exp(min(loss, 700.0)),
        bits_per_byte=own("bits_per_byte"),
        preference_accuracy=own("preference_accuracy"),
        preference_margin=own("preference_margin"),
        mean_reward=own("mean_reward"),
        answers=answers,
        loss_rows=score_of(table, "eval_loss")[1] if loss is not None else 0,
        loss_tokens=tokens,
        generated_rows=table.num_rows - table["answer"].null_count,
        is_of_reward_model=facts.is_reward_model,
        size_bytes=facts.size_bytes,
        quantized_share=facts.quantized_share,
    )


def _losses_of(table: pa.Table, row_ids: Sequence[str]) -> list[float]:
    """Return the summed loss of each of the rows, in nats; empty where the loss was not measured."""
    if "eval_loss" not in measures_in(table):
        return []
    sums = dict(zip(table["row_id"].to_pylist(), values_of(table, "eval_loss").sums[:, 0].tolist(), strict=True))
    return [round(sums[row_id], 6) for row_id in row_ids]

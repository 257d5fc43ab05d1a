"""Compare models row by row: every difference with its interval, its test, and what so many rows can show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from configs.measures import MEASURES, Scores
from configs.schema import FineTuneConfig
from configs.wire import HELD_OUT, Evaluation
from configs.wire_evidence import Difference
from tasks.evidence.differences import RowArrays, paired_difference
from tasks.evidence.table import aligned, datasets, groups_of, measures_in, rows_of, values_of
from tasks.measures.measured import RowValues, mean_values

CHANCE = "chance"
"""The name of guessing, with which a reward model is compared: of two answers, one is the chosen one."""
_CHANCE_VALUE = 0.5


@dataclass(frozen=True)
class Rated:
    """A model of a run, with its scores and its table of rows."""

    evaluation: Evaluation
    table: pa.Table


@dataclass(frozen=True)
class Run:
    """All models of a run by name: the one to be judged (`candidate`), the one that training began with (`start`),
    quantized copies, and others. `start_words` are how sentences call `start`."""

    config: FineTuneConfig
    models: Mapping[str, Rated]
    start: str = "base"
    candidate: str = "tuned"
    start_words: str = "the model that training began with"

    def scores(self, name: str) -> Scores:
        """Return the scores of a model on the held-out rows."""
        return self.models[name].evaluation.scores


class Pair(NamedTuple):
    """What is compared: a measure of `model` with that of `versus`, on one set."""

    model: str
    versus: str
    set: str
    measure: str


def all_pairs(models: Mapping[str, Rated], model: str, versus: str) -> list[Pair]:
    """Return every measure of every set that both models have.

    Bits per byte are left out where the losses can be compared, of which they are a multiple.
    """
    first, second = models[model].table, models[versus].table
    pairs = []
    for name in datasets(first):
        known = set(measures_in(rows_of(second, name)))
        keys = [key for key in measures_in(rows_of(first, name)) if key in known]
        if "bits_per_byte" in keys and "eval_loss" in keys and not other_tokens(models, model, versus, name):
            keys.remove("bits_per_byte")
        pairs += [Pair(model, versus, name, key) for key in keys]
    return pairs


def differences(models: Mapping[str, Rated], pairs: Sequence[Pair]) -> list[Difference]:
    """Return the difference of each of `pairs`, over the rows that count for both models; none where no row does."""
    return [found for pair in dict.fromkeys(pairs) if (found := _difference(models, pair)) is not None]


def find(known: Sequence[Difference], pair: Pair) -> Difference | None:
    """Return the difference of a pair; None where it could not be computed."""
    return next((own for own in known if (own.model, own.versus, own.set, own.measure) == pair), None)


def _difference(models: Mapping[str, Rated], pair: Pair) -> Difference | None:
    after_table = rows_of(models[pair.model].table, pair.set)
    if pair.versus == CHANCE:
        before_table, before = after_table, None
    else:
        before_table = rows_of(models[pair.versus].table, pair.set)
        after_table, before_table = aligned(after_table, before_table)
        if pair.measure not in measures_in(before_table):
            return None
        before = values_of(before_table, pair.measure)
    if pair.measure not in measures_in(after_table):
        return None
    after = values_of(after_table, pair.measure)
    if before is not None and pair.measure == "eval_loss" and not has_same_tokens(before, after):
        return None
    before = of_chance(after) if before is None else before
    groups = groups_of(after_table)
    name, lower_is_better = _measure(models, pair)
    result = paired_difference(
        arrays(before),
        arrays(after),
        groups=groups,
        is_binary=_is_binary(before) and _is_binary(after),
        lower_is_better=lower_is_better,
    )
    if result is None:
        return None
    return Difference(
        measure=pair.measure,
        name=name,
        lower_is_better=lower_is_better,
        set=pair.set,
        model=pair.model,
        versus=pair.versus,
        before=result.before,
        after=result.after,
        difference=result.difference,
        low=result.low if np.isfinite(result.low) else None,
        high=result.high if np.isfinite(result.high) else None,
        p_value=result.p_value,
        test=result.test,
        rows=result.rows,
        groups=result.groups or 0,
        wins=result.wins,
        losses=result.losses,
        ties=result.ties,
        detectable=result.detectable,
    )


def scores_on(models: Mapping[str, Rated], name: str, dataset: str) -> list[Scores]:
    """Return the scores of a model on a set; empty where it has none."""
    evaluation = models[name].evaluation
    if dataset == HELD_OUT:
        return [evaluation.scores]
    return [other.scores for other in evaluation.others if other.name == dataset]


def has_same_tokens(before: RowValues, after: RowValues) -> bool:
    """Return whether two losses are over the same numbers of tokens: else tokenizers differ, and so does the unit."""
    both = np.isfinite(before.values) & np.isfinite(after.values)
    return bool(np.array_equal(before.sums[both, 1], after.sums[both, 1]))


def other_tokens(models: Mapping[str, Rated], model: str, versus: str, dataset: str = HELD_OUT) -> bool:
    """Return whether the losses of two models on a set cannot be compared."""
    tables = aligned(*(rows_of(models[name].table, dataset) for name in (model, versus)))
    if any("eval_loss" not in measures_in(table) for table in tables):
        return False
    after, before = (values_of(table, "eval_loss") for table in tables)
    return not has_same_tokens(before, after)


def _measure(models: Mapping[str, Rated], pair: Pair) -> tuple[str, bool]:
    """Return a measure's name in the table of measures, and whether lower is better."""
    of_set = scores_on(models, pair.model, pair.set)
    own = next((own for scores in of_set if (own := scores.measured(pair.measure))), None)
    if own is not None:
        return own.name, own.lower_is_better
    return pair.measure, MEASURES[pair.measure].lower_is_better


def arrays(values: RowValues) -> RowArrays:
    """Return a measure of rows as statistics take it."""
    return RowArrays(values.values, values.sums, values.reduction)


def of_chance(values: RowValues) -> RowValues:
    """Return what guessing has on the rows that count in `values`."""
    return mean_values(np.where(np.isfinite(values.values), _CHANCE_VALUE, np.nan))


def _is_binary(values: RowValues) -> bool:
    known = values.values[np.isfinite(values.values)]
    return values.reduction == "mean" and bool(np.isin(known, (0.0, 1.0)).all())

"""Trainings repeated with several seeds: what of a gain is the training's, and what the seed's or the rows' chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

import numpy as np
from scipy import stats

from configs.wire_evidence import Difference
from tasks.evidence.bootstrap import RESAMPLES, Interval, bootstrap_t_interval, mean_gains_interval
from tasks.evidence.differences import RowArrays
from tasks.evidence.units import UnitsOfRuns, group_numbers, paired_units
from tasks.measures.measured import sums_of_values


@dataclass(frozen=True)
class SeedsResult:
    """One measure of trainings with several seeds, on the rows that count in all of them.

    `before` and `after` have the scores of each run, `mean` and `deviation` are of `after`, with runs - 1 in the
    denominator of `deviation`. `gain` is the mean over runs of after - before in the direction of the measure, positive
    where training helped. [`over_rows`] is its interval for other rows and these seeds, [`over_seeds`] for other seeds
    and these rows, [`low`, `high`] for both. `better` counts the runs with a gain above 0. `groups` is the number of
    groups, None where no rows share one.
    """

    before: tuple[float, ...]
    after: tuple[float, ...]
    mean: float
    deviation: float
    gain: float
    over_rows: Interval
    over_seeds: Interval
    low: float
    high: float
    better: int
    rows: int
    groups: int | None

    @property
    def is_better(self) -> bool:
        """Whether the gain is more than the noise of rows and seeds."""
        return self.low > 0.0

    @property
    def is_worse(self) -> bool:
        """Whether the loss is more than the noise of rows and seeds."""
        return self.high < 0.0


def over_seeds(
    runs: Sequence[tuple[RowArrays, RowArrays]],
    *,
    groups: Sequence[str] | np.ndarray | None = None,
    lower_is_better: bool,
    largest: float = np.inf,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> SeedsResult | None:
    """Return what trainings with several seeds gained; None where no row counts in all of them.

    `runs` has the rows before and after each training: the same rows in the same order. `largest` is the largest gain
    that there can be, 1 for shares: no interval goes beyond.

    The interval over rows is that of the mean gain, in which a row or a group of `groups` is drawn for all runs
    together: bootstrap-t, or for a measure of 0 and 1 without groups that of the table with half a row in each cell
    (`tasks.evidence.bootstrap`). The one over seeds is Student's, mean +- t * deviation / sqrt(runs) with runs - 1
    degrees of freedom. Both are put together on each side, low = gain - sqrt((gain - low of rows)^2 + (gain - low of
    seeds)^2), and so for high: Zou and Donner's interval of a sum (MOVER, Statistics in Medicine 27, 2008). What a seed
    does to single rows is in both parts, so the interval is rather too wide than too short.

    Raises:
        ValueError: there are fewer than two runs, or their rows, sums or reductions do not match.
    """
    if len(runs) < 2:
        raise ValueError(f"{len(runs)} run has no deviation; train with 2 or more seeds")
    tables = [table for run in runs for table in run]
    if len({(len(table.values), table.reduction, table.sums.shape) for table in tables}) > 1:
        raise ValueError("the runs have other rows, sums or reductions; give the same measure of the same rows")
    counted = np.isfinite([table.values for table in tables]).all(axis=0)
    if not counted.any():
        return None
    before, after = (np.concatenate([run[side].sums[counted] for run in runs], axis=1) for side in (0, 1))
    numbers = None if groups is None else group_numbers(np.asarray(groups, dtype=str)[counted])
    own = paired_units(before, after, tables[0].reduction, numbers)
    units = UnitsOfRuns(own.before, own.after, own.counts, own.reduction, len(runs))
    scores = [_of_each(units, total) for total in units.totals()]
    if not np.isfinite(scores).all():
        return None
    sign = -1.0 if lower_is_better else 1.0
    gains = [sign * (new - old) for old, new in zip(*scores, strict=True)]
    gain = fmean(gains)
    if numbers is None and all(_is_binary(table) for table in tables):
        differences = np.mean([run[1].values[counted] - run[0].values[counted] for run in runs], axis=0)
        found = mean_gains_interval(differences, seed=seed, resamples=resamples, level=level)
    else:
        found = bootstrap_t_interval(units, seed=seed, resamples=resamples, level=level)
    of_rows = Interval(-found.high, -found.low) if lower_is_better else found
    half = float(stats.t.ppf((1 + level) / 2, len(runs) - 1)) * stdev(gains) / len(runs) ** 0.5
    return SeedsResult(
        before=scores[0],
        after=scores[1],
        mean=fmean(scores[1]),
        deviation=stdev(scores[1]),
        gain=gain,
        over_rows=of_rows,
        over_seeds=Interval(gain - half, gain + half),
        low=max(-largest, gain - float(np.hypot(gain - of_rows.low, half))),
        high=min(largest, gain + float(np.hypot(of_rows.high - gain, half))),
        better=sum(own > 0 for own in gains),
        rows=int(counted.sum()),
        groups=None if numbers is None else units.number,
    )


def _is_binary(table: RowArrays) -> bool:
    known = table.values[np.isfinite(table.values)]
    return (
        table.reduction == "mean"
        and bool(np.isin(known, (0.0, 1.0)).all())
        and np.array_equal(table.sums, sums_of_values(table.values))
    )


def _of_each(units: UnitsOfRuns, sums: np.ndarray) -> tuple[float, ...]:
    """Return the score of each run, of sums [runs * k]."""
    alone = UnitsOfRuns(units.before, units.after, units.counts, units.reduction)
    return tuple(float(alone.scores(part)) for part in sums.reshape(units.runs, -1))


@dataclass(frozen=True)
class MeasureOverSeeds:
    """A measure of the runs. `difference` is that of the first run: it says the measure, the set and the models."""

    difference: Difference
    result: SeedsResult


@dataclass(frozen=True)
class RepeatedRuns:
    """Runs of one config with several seeds, compared.

    `seeds` has the seeds of each of `folders`, by their paths in the config, and `differing` the other settings that
    are not the same, with the value of each run. `measures` begins with the one that decides, if `decides`. `left_out`
    says in words which measures are not compared, and why.
    """

    folders: tuple[str, ...]
    seeds: tuple[Mapping[str, Any], ...]
    differing: Mapping[str, Sequence[Any]]
    rows: int
    measures: tuple[MeasureOverSeeds, ...]
    decides: bool
    left_out: tuple[str, ...]

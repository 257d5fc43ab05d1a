"""The difference of two models on the same rows: how large, how certain, and what the rows could have shown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tasks.evidence.bootstrap import RESAMPLES, Interval, binary_interval, bootstrap_t_interval
from tasks.evidence.p_values import mcnemar, randomization
from tasks.evidence.power import LEVEL, detectable_mean, detectable_share
from tasks.evidence.units import Units, group_numbers, paired_units
from tasks.measures.measured import REDUCTIONS, sums_of_values

FEWEST_UNITS = 6
"""With fewer rows or groups no exact test gives a p-value below 5 %, so that no interval of 95 % has an end."""


@dataclass(frozen=True)
class RowArrays:
    """A measure of one model's rows, as read from its table.

    `values` [rows] float64, NaN for a row that does not count; `sums` [rows, k] float64 is what is added up over rows,
    and `reduction` names the function in `tasks.measures.measured.REDUCTIONS` that makes a score of it.
    """

    values: np.ndarray
    sums: np.ndarray
    reduction: str = "mean"


def mean_arrays(values: Sequence[float] | np.ndarray) -> RowArrays:
    """Return the rows of a measure whose score is the mean of `values` [rows] over those that are not NaN."""
    array = np.asarray(values, dtype=np.float64)
    return RowArrays(array, sums_of_values(array))


@dataclass(frozen=True)
class PairedResult:
    """Two models compared on the rows that count for both.

    `before` and `after` are the scores over these rows, `difference` is after - before, [`low`, `high`] its interval
    (-inf and inf with fewer than `FEWEST_UNITS` rows or groups), all in the unit of the score. `p_value` is two-sided.
    `test` and `interval` say which methods gave them. `wins` and `losses` count rows that became better and worse in
    the direction of the measure, `ties` the others. `groups` is the number of groups, None where no rows share one.
    `detectable` is the smallest difference that so many rows show at 80 % power (two-sided, 5 %), None where that is
    not known.
    """

    before: float
    after: float
    difference: float
    low: float
    high: float
    p_value: float
    test: str
    interval: str
    rows: int
    groups: int | None
    wins: int
    losses: int
    ties: int
    detectable: float | None
    is_binary: bool
    lower_is_better: bool

    @property
    def units(self) -> int:
        """The number of independent observations: groups, or rows where none share a group."""
        return self.rows if self.groups is None else self.groups

    @property
    def gain(self) -> float:
        """The difference in the direction of the measure: positive is better."""
        return -self.difference if self.lower_is_better else self.difference

    @property
    def gain_interval(self) -> Interval:
        """The interval of `gain`."""
        return Interval(-self.high, -self.low) if self.lower_is_better else Interval(self.low, self.high)


def paired_difference(
    before: RowArrays,
    after: RowArrays,
    *,
    groups: Sequence[str] | np.ndarray | None = None,
    is_binary: bool,
    lower_is_better: bool,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = 0.95,
) -> PairedResult | None:
    """Return how `after` differs from `before` on the rows that count for both; None where no row does.

    The rows of both are the same, in the same order. `groups` [rows] has the name of each row's group; rows with an
    empty name are groups of their own. `is_binary` says that every value is 0 or 1. The same `seed` gives the same
    result.

    The interval is a paired bootstrap over rows, or over whole groups (`tasks.evidence.bootstrap`). The p-value is of
    the exact McNemar test for a binary measure of rows without groups, else of the randomization test, which exchanges
    the two models' sums of a row or a group (`tasks.evidence.p_values`).

    Raises:
        ValueError: the rows, their sums or reductions do not match, or a value of a binary measure is neither 0 nor 1.
    """
    _check_match(before, after, groups)
    counted = np.isfinite(before.values) & np.isfinite(after.values)
    rows = int(counted.sum())
    if rows == 0:
        return None
    values = before.values[counted], after.values[counted]
    numbers = None if groups is None else group_numbers(np.asarray(groups, dtype=str)[counted])
    units = paired_units(before.sums[counted], after.sums[counted], before.reduction, numbers)
    sums = units.totals()
    scores = [float(REDUCTIONS[before.reduction](total)) for total in sums]
    if not np.isfinite(scores).all():
        return None
    same = np.isclose(*values, rtol=1e-9, atol=1e-12)
    higher = int((~same & (values[1] > values[0])).sum())
    lower = rows - higher - int(same.sum())
    if is_binary:
        _check_binary(*values, before.reduction)
    drawn = "rows" if numbers is None else "groups"
    if is_binary and numbers is None:
        interval = binary_interval(higher, lower, rows, seed=seed, resamples=resamples, level=level)
        p_value, test = mcnemar(higher, lower), "exact McNemar test"
        words = f"percentile bootstrap of rows, half a row added to each cell of the table; {resamples:,} resamples"
        detectable = detectable_share(rows, (higher + lower) / rows)
    else:
        interval = bootstrap_t_interval(units, seed=seed, resamples=resamples, level=level)
        p_value, test = randomization(units, seed=seed, resamples=resamples), f"randomization test over {drawn}"
        words = f"bootstrap-t of {drawn}, at least as wide as Student's; {resamples:,} resamples"
        detectable = detectable_mean(_standard_error(units), units.number)
    if (rows if numbers is None else units.number) < FEWEST_UNITS:
        interval, words = Interval(-np.inf, np.inf), f"none: fewer than {FEWEST_UNITS} {drawn}"
    return PairedResult(
        before=scores[0],
        after=scores[1],
        difference=scores[1] - scores[0],
        low=interval.low,
        high=interval.high,
        p_value=p_value,
        test=test,
        interval=words,
        rows=rows,
        groups=None if numbers is None else units.number,
        wins=lower if lower_is_better else higher,
        losses=higher if lower_is_better else lower,
        ties=rows - higher - lower,
        detectable=detectable,
        is_binary=is_binary,
        lower_is_better=lower_is_better,
    )


def is_better(result: PairedResult, alpha: float = LEVEL, p_value: float | None = None) -> bool:
    """Return whether `after` is better than `before`, in the direction of the measure, by more than noise.

    The p-value is below `alpha` and the whole interval lies on the better side of 0. `p_value` replaces the result's
    own, for one that is corrected for several tests (`tasks.evidence.holm`).
    """
    return (result.p_value if p_value is None else p_value) < alpha and result.gain_interval.low > 0.0


def _standard_error(units: Units) -> float:
    return units.standard_error() if units.number > 1 else 0.0


def _check_match(before: RowArrays, after: RowArrays, groups: Sequence[str] | np.ndarray | None) -> None:
    rows = len(before.values)
    found = [len(after.values), len(before.sums), len(after.sums), *([] if groups is None else [len(groups)])]
    if any(number != rows for number in found):
        raise ValueError(f"{rows} rows before, and {found} rows after, sums and groups; both models need the same rows")
    if before.reduction != after.reduction or before.sums.shape != after.sums.shape:
        raise ValueError(
            f"sums {before.sums.shape} by {before.reduction} and {after.sums.shape} by {after.reduction} "
            "do not compare; give the same measure of both models"
        )


def _check_binary(before: np.ndarray, after: np.ndarray, reduction: str) -> None:
    if reduction != "mean" or not (np.isin(before, (0.0, 1.0)).all() and np.isin(after, (0.0, 1.0)).all()):
        raise ValueError("a binary measure has a value that is neither 0 nor 1, or is not a mean; pass is_binary=False")

"""Intervals of the difference of two scores on the same rows, by the paired bootstrap.

Which interval: chosen by simulation at 30, 100 and 300 rows (tests/tasks/evidence/test_coverage.py). Percentiles cover
86 to 93 % for skewed losses and few groups, BCa 81 to 94 %. The bootstrap-t covers skewed data but not heavy tails, and
Student's t the reverse; the wider of both on each side covers 93 to 97 %.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import stats

from tasks.evidence.units import Units

RESAMPLES = 10_000
_COUNTS_AT_ONCE = 4_000_000
"""Numbers of drawn units that are held at once: 32 MB as float64."""
_OWN_VARIANCE_UNITS = 0.5
"""Units of the data's own variance that are mixed into each resample's, so that a resample of equal rows is finite."""
_UNITS_OF_UNSEEN_TAILS = 3.0
"""Units added to the number that each tail's share is divided by."""


@dataclass(frozen=True)
class Interval:
    """An interval of a difference, ends included, in the unit of the score."""

    low: float
    high: float


def bootstrap_t_interval(units: Units, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95) -> Interval:
    """Return the bootstrap-t interval of the score's difference (after - before), at least as wide as Student's.

    Units (rows, or whole groups) are drawn with replacement, both models together. Each resample's difference is
    studentized: t* = (difference* - difference) / se*, with se* from the units' influences in the resample (Efron and
    Tibshirani 1993, section 12.5; Davison and Hinkley 1997, section 2.7, for influences). The interval is
    [difference - q_high * se, difference - q_low * se] with se of the jackknife and q the quantiles of t*.

    Few units show too little of the tails, hence three refinements, which vanish with more units: se*^2 has half a unit
    of the data's own variance; the quantiles leave out less of each side (`left_out`); and |q| is never below Student's
    quantile with units - 1 degrees of freedom. Resamples in which nothing counts are left out.

    Where all units move the difference equally the interval is the difference itself, and with one unit it is without
    bounds.
    """
    difference = float(units.difference(*units.totals()))
    if units.number < 2:
        return Interval(-np.inf, np.inf)
    error = units.standard_error()
    if error == 0.0:
        return Interval(difference, difference)
    number, influences = units.number, units.influences()
    own_variance = float(units.counts @ influences**2) / number
    width = units.before.shape[1]
    columns = np.concatenate(
        [units.before, units.after, influences[:, None], (influences * influences)[:, None]], axis=1
    )
    studentized = np.empty(resamples)
    for first, counts in _drawn_counts(units, np.random.default_rng([seed, 0]), resamples):
        sums = counts @ columns
        moved = units.difference(sums[:, :width], sums[:, width : 2 * width]) - difference
        variance = np.maximum(sums[:, -1] / number - (sums[:, -2] / number) ** 2, 0.0)
        mixed = (number * variance + _OWN_VARIANCE_UNITS * own_variance) / (number + _OWN_VARIANCE_UNITS)
        studentized[first : first + len(counts)] = moved / np.sqrt(mixed / (number - 1))
    tail = (1 - level) / 2
    outside = left_out(tail, number)
    low, high = np.quantile(studentized[np.isfinite(studentized)], [outside, 1 - outside])
    least = float(stats.t.ppf(1 - tail, number - 1))
    return Interval(difference - max(float(high), least) * error, difference - min(float(low), -least) * error)


def left_out(tail: float, units: int) -> float:
    """Return the share of resamples that an interval leaves out on each side: less than `tail`, if units are few."""
    return tail * units / (units + _UNITS_OF_UNSEEN_TAILS)


def binary_interval(
    wins: int, losses: int, rows: int, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95
) -> Interval:
    """Return the interval of (wins - losses) / rows, for a measure that is 0 or 1 for each row.

    `wins` rows went from 0 to 1, `losses` from 1 to 0. The percentile bootstrap of the paired table with half a row
    added to each of its four cells, which makes `rows` + 2 rows: few discordant rows, or none in one direction, would
    else give an interval that is far too short (Agresti and Min, Statistics in Medicine 24, 2005, add the same to
    Wald's interval). Where all differences are equal the interval is the difference itself, and with one row it is
    without bounds.
    """
    counts = np.array([wins, losses, rows - wins - losses])
    return _interval_of_gains(_BINARY_GAINS, counts, seed, resamples, level)


def mean_gains_interval(gains: np.ndarray, *, seed: int, resamples: int = RESAMPLES, level: float = 0.95) -> Interval:
    """Return the interval of the mean of `gains` [rows]: the mean over several runs of what a row of 0 or 1 gained.

    As `binary_interval`, which it is for one run; the added rows are alike in all runs.
    """
    others, numbers = np.unique(gains[~np.isin(gains, _BINARY_GAINS)], return_counts=True)
    counts = [np.count_nonzero(gains == value) for value in _BINARY_GAINS]
    return _interval_of_gains(
        np.concatenate([_BINARY_GAINS, others]), np.concatenate([counts, numbers]), seed, resamples, level
    )


_BINARY_GAINS = np.array([1.0, -1.0, 0.0])


def _interval_of_gains(gains: np.ndarray, counts: np.ndarray, seed: int, resamples: int, level: float) -> Interval:
    """Return the interval of the mean gain: `counts` rows have each of `gains`, which begin with 1, -1 and 0."""
    rows = int(counts.sum())
    if rows < 2:
        return Interval(-np.inf, np.inf)
    if counts.max() == rows:
        difference = float(gains[counts.argmax()])
        return Interval(difference, difference)
    added = np.zeros(len(counts))
    added[:3] = 0.5, 0.5, 1.0
    drawn = np.random.default_rng([seed, 0]).multinomial(rows + 2, (counts + added) / (rows + 2.0), size=resamples)
    tail = (1 - level) / 2
    low, high = np.quantile(drawn @ gains / (rows + 2), [tail, 1 - tail])
    return Interval(float(low), float(high))


def _drawn_counts(units: Units, generator: np.random.Generator, resamples: int) -> Iterator[tuple[int, np.ndarray]]:
    """Yield the number of the first resample, and [some resamples, distinct] float64 how often each unit is drawn."""
    distinct, number = len(units.counts), units.number
    step = max(1, _COUNTS_AT_ONCE // distinct)
    for first in range(0, resamples, step):
        some = min(step, resamples - first)
        if distinct < number:
            yield first, generator.multinomial(number, units.counts / number, size=some).astype(np.float64)
            continue
        drawn = generator.integers(0, number, size=(some, number))
        drawn += np.arange(some)[:, None] * number
        counts = np.bincount(drawn.ravel(), minlength=some * number)
        yield first, counts.reshape(some, number).astype(np.float64)

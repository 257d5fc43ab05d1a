"""Probabilities of a difference as large as the one seen, if the two models were equal."""

from __future__ import annotations

import numpy as np
from scipy import stats

from tasks.evidence.units import Units

_MOST_ENUMERATED = 13
"""Units of which all 2^n exchanges are tried: 8,192, fewer than are drawn for more units."""
_SIGNS_AT_ONCE = 4_000_000


def mcnemar(wins: int, losses: int) -> float:
    """Return the two-sided p-value of the exact McNemar test.

    `wins` and `losses` are the discordant rows: correct for one model only. For equal models each is as likely as the
    other, so `wins` is binomial with a half (McNemar, Psychometrika 12, 1947; the exact form in scipy's `binomtest`).
    Without discordant rows it is 1.
    """
    if wins + losses == 0:
        return 1.0
    return float(stats.binomtest(wins, wins + losses, 0.5).pvalue)


def randomization(units: Units, *, seed: int, resamples: int) -> float:
    """Return the two-sided p-value of the paired randomization test.

    For equal models the two labels of a unit (row or group) can be exchanged; the p-value is the share of exchanges
    with a difference of scores at least as large as the one seen (Fisher 1935; Noreen, Computer-Intensive Methods,
    1989). It holds for every score that is made of sums. Up to 13 units all exchanges are tried; for more, `resamples`
    are drawn, and the p-value is (1 + as large) / (1 + resamples), never 0 (Phipson and Smyth 2010). Fewer than 6 units
    can not give less than 0.05.
    """
    before, after = units.totals()
    seen = abs(float(units.difference(before, after)))
    gains = units.after - units.before
    # sums in another order differ in their last digits
    least = seen * (1 - 1e-9) - 1e-12
    if units.number <= _MOST_ENUMERATED:
        gains = np.repeat(gains, units.counts, axis=0)
        patterns = np.arange(2**units.number)[:, None] >> np.arange(units.number)
        return float(_as_large(units, before, after, (patterns & 1) @ gains, least).mean())
    generator, large = np.random.default_rng([seed, 1]), 0
    step = max(1, _SIGNS_AT_ONCE // len(gains))
    for first in range(0, resamples, step):
        exchanged = _exchanged(units, generator, min(step, resamples - first))
        large += int(_as_large(units, before, after, exchanged @ gains, least).sum())
    return (1 + large) / (1 + resamples)


def _as_large(units: Units, before: np.ndarray, after: np.ndarray, moved: np.ndarray, least: float) -> np.ndarray:
    """Return [exchanges] whether the difference is at least `least` when the sums `moved` [exchanges, k] change sides.

    An exchange in which nothing counts is as large: it speaks for no model.
    """
    differences = np.abs(units.difference(before + moved, after - moved))
    return np.asarray(~(differences < least))


def _exchanged(units: Units, generator: np.random.Generator, number: int) -> np.ndarray:
    """Return [number, distinct] float64 how many units of each kind are exchanged, by fair coins."""
    distinct = len(units.counts)
    if distinct < units.number:
        return generator.binomial(units.counts, 0.5, size=(number, distinct)).astype(np.float64)
    drawn = np.frombuffer(generator.bytes(number * ((distinct + 7) // 8)), dtype=np.uint8).reshape(number, -1)
    return np.unpackbits(drawn, axis=1, count=distinct).astype(np.float64)

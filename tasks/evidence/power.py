"""Which difference a test set can show at all: at 80 % power, by a two-sided test at 5 %."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy import optimize, stats

from tasks.evidence.bootstrap import left_out

if TYPE_CHECKING:
    from tasks.evidence.differences import PairedResult

POWER = 0.8
LEVEL = 0.05
_FEWEST_UNITS = 6
"""With fewer units no exact two-sided test gives less than 0.05: 2 / 2^5 is 0.0625."""


def detectable_mean(standard_error: float, units: int) -> float | None:
    """Return the smallest difference of scores that `units` rows or groups show at 80 % power.

    (t_0.975 + t_0.8) * `standard_error` of the difference, with units - 1 degrees of freedom: the sample size of the
    paired t-test, solved for the difference (Chow, Shao and Wang, Sample Size Calculations in Clinical Research,
    chapter 3). For few units 0.975 is higher, as in the interval (`tasks.evidence.bootstrap.left_out`). In simulations
    the power is 76 to 80 % from 10 units on, and 64 to 74 % for 6 to 8, where few p-values are possible. None where it
    is not known: fewer than 6 units, or all of them alike.
    """
    if units < _FEWEST_UNITS or standard_error == 0.0:
        return None
    quantiles = stats.t.ppf([1 - left_out(LEVEL / 2, units), POWER], units - 1)
    return float(quantiles.sum() * standard_error)


def detectable_share(num_rows: int, discordant: float = 0.5) -> float | None:
    """Return the smallest difference of two shares (0 to 1) that the exact McNemar test shows at 80 % power.

    `discordant` is the share of rows that one model alone answers correctly; 0.5, the default, is a cautious guess for
    before any result. A difference above it makes all discordant rows, and as many as needed, favour one model. None
    where no difference can be shown: fewer than 6 rows.

    The power is computed exactly over the binomial number of discordant rows (Duffy, Biometrics 40, 1984). The usual
    formula, n = (z_0.975 * sqrt(p) + z_0.8 * sqrt(p - d^2))^2 / d^2 with the discordant share p and the difference d
    (Connor, Biometrics 43, 1987; after Miettinen 1968), is its limit for many rows and promises too much for few.

    Raises:
        ValueError: `num_rows` is below 1, or `discordant` is not between 0 and 1.
    """
    if num_rows < 1 or not 0.0 <= discordant <= 1.0:
        raise ValueError(f"{num_rows} rows with a discordant share of {discordant}: give 1 row or more, and 0 to 1")
    if num_rows < _FEWEST_UNITS:
        return None
    counts = np.arange(num_rows + 1)
    # the most losses among so many discordant rows with a two-sided p-value below 5 %; -1 where there is no such number
    most = stats.binom.ppf(LEVEL / 2, counts, 0.5)
    most = np.where(2 * stats.binom.cdf(most, counts, 0.5) < LEVEL, most, most - 1)

    def lacking(difference: float) -> float:
        share = max(discordant, difference)
        if share == 0.0:
            return -POWER
        first, last = stats.binom.ppf([1e-9, 1 - 1e-9], num_rows, share).astype(int)
        likely = slice(first, last + 1)
        found = stats.binom.cdf(most[likely], counts[likely], (1 - difference / share) / 2)
        return float(stats.binom.pmf(counts[likely], num_rows, share) @ found) - POWER

    return float(optimize.brentq(lacking, 0.0, 1.0, xtol=1e-6))


def power_sentence(result: PairedResult, as_points: bool | None = None) -> str:
    """Return what the rows of a comparison can show, what they showed, and whether the test set is too small for it.

    `as_points` writes hundredths of the score, as for shares; by default for measures of 0 and 1.
    """
    points = result.is_binary if as_points is None else as_points
    rows = _rows(result)
    seen = f"{abs(result.difference) * 100:.1f}" if points else f"{abs(result.difference):.3g}"
    if result.detectable is None:
        if result.units < _FEWEST_UNITS:
            return (
                f"{rows} are too few to show any difference: no test of fewer than {_FEWEST_UNITS} gives less than 5 %."
            )
        return (
            f"{rows} all differ equally, so how small a difference they can show is not known; the one seen is {seen}."
        )
    least = f"{result.detectable * 100:.1f} points" if points else f"{result.detectable:.3g}"
    sentence = f"{rows} can show a difference of {least} or more (80 % power); the one seen is {seen}."
    if abs(result.difference) >= result.detectable:
        return sentence
    if result.p_value < LEVEL:
        return f"{sentence} The test set is too small to show one like it every time."
    return f"{sentence} The test set is too small to tell it from noise."


def _rows(result: PairedResult) -> str:
    rows = f"{result.rows:,} row{'' if result.rows == 1 else 's'}"
    if result.groups is None:
        return rows
    return f"{rows} in {result.groups:,} group{'' if result.groups == 1 else 's'}"

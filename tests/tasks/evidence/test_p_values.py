"""P-values by hand: McNemar's, of exchanges that can be counted, and Holm's correction."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tasks.evidence.holm import holm
from tasks.evidence.p_values import mcnemar, randomization
from tasks.evidence.units import paired_units
from tasks.measures.measured import sums_of_values


@pytest.mark.parametrize(
    ("wins", "losses", "expected"),
    [
        (9, 1, 2 * (1 + 10) / 1024),  # 0.0215: 0 or 1 of 10 coins, and the same at the other end
        (1, 9, 2 * (1 + 10) / 1024),
        (6, 0, 2 / 64),
        (5, 0, 2 / 32),  # five rows can not be enough
        (4, 4, 1.0),
        (0, 0, 1.0),
    ],
)
def test_mcnemar_counts_coins(wins: int, losses: int, expected: float) -> None:
    assert mcnemar(wins, losses) == pytest.approx(expected, abs=1e-12)


def p_of_means(gains: list[float], resamples: int = 999) -> float:
    after = np.array(gains)
    units = paired_units(sums_of_values(np.zeros(len(after))), sums_of_values(after), "mean")
    return randomization(units, seed=0, resamples=resamples)


def test_few_rows_are_exchanged_in_all_ways() -> None:
    # of the 8 signs of 1, 2, 3 only + + + and - - - reach a sum of 6
    assert p_of_means([1.0, 2.0, 3.0]) == 2 / 8
    # 3 + 2 - 1 = 4: reached by 6 and 4, both ways
    assert p_of_means([-1.0, 2.0, 3.0]) == 4 / 8
    assert p_of_means([0.1] * 6) == 2 / 64
    assert p_of_means([0.0, 0.0]) == 1.0


def test_many_rows_never_have_a_probability_of_zero() -> None:
    assert p_of_means([1.0] * 200, resamples=999) == 1 / 1000


def test_exchanges_of_equal_and_of_distinct_rows_agree() -> None:
    """Rows with equal sums are exchanged together, as a binomial number; a billionth of difference keeps them apart."""
    gains = np.repeat([1.0, -1.0, 0.5], [45, 30, 25])
    together = p_of_means(list(gains), resamples=20_000)
    apart = p_of_means(list(gains + np.arange(100) * 1e-9), resamples=20_000)
    assert together == pytest.approx(apart, abs=0.01)
    # the sum is 45 - 30 + 12.5 = 27.5; of 75 coins of 1 and 25 of a half, the probability of as large a sum
    coins = [stats.binom.pmf(np.arange(number + 1), number, 0.5) for number in (75, 25)]
    sums = np.add.outer(2 * np.arange(76) - 75, np.arange(26) - 12.5)
    expected = np.multiply.outer(*coins)[np.abs(sums) >= 27.5].sum()
    assert together == pytest.approx(expected, abs=0.001)


def test_groups_are_exchanged_as_one() -> None:
    sums = sums_of_values(np.zeros(6)), sums_of_values(np.ones(6))
    units = paired_units(*sums, "mean", np.array([0, 0, 0, 1, 1, 1]))
    # two groups: ++ and -- of 4
    assert randomization(units, seed=0, resamples=999) == 2 / 4


def test_holm_by_hand() -> None:
    # 0.01 * 4; 0.02 * 3; 0.03 * 2 is as small, so it stays at 0.06; 0.4 * 1
    assert holm([0.02, 0.4, 0.01, 0.03]) == pytest.approx([0.06, 0.4, 0.04, 0.06])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_holm_refuses_what_is_no_probability(wrong: float) -> None:
    with pytest.raises(ValueError, match="not between 0 and 1"):
        holm([0.5, wrong])

"""The paired test over rows, against values of Student's distribution worked out by hand."""

from __future__ import annotations

from math import atan, pi, sqrt

import numpy as np
import pytest

from configs.paired_rows import LEVEL, MOST_ROWS, is_seen, p_value, spaced


def test_the_probability_is_that_of_students_distribution() -> None:
    # two rows, one degree of freedom: Cauchy; decreases 1 and 3 have mean 2, deviation sqrt(2), t = 2
    assert p_value([1.0, 3.0], [0.0, 0.0]) == pytest.approx(0.5 - atan(2.0) / pi)
    # three rows, two degrees: sf(t) = 1/2 - t / (2 sqrt(2 + t^2)); decreases 1, 2, 3 have t = 2 sqrt(3)
    t = 2 * sqrt(3)
    assert p_value([1.0, 2.0, 3.0], [0.0] * 3) == pytest.approx(0.5 - t / (2 * sqrt(2 + t * t)))
    assert p_value([0.0] * 3, [1.0, 2.0, 3.0]) == pytest.approx(0.5 + t / (2 * sqrt(2 + t * t)))


def test_rows_that_all_fall_alike_show_a_difference_and_a_single_row_shows_none() -> None:
    assert p_value([2.0, 2.0, 3.0], [1.5, 1.5, 2.5]) == 0.0
    assert p_value([2.0, 2.0], [2.0, 2.0]) == 1.0
    assert p_value([2.0], [1.0]) == p_value([], []) == 1.0


def test_noise_is_taken_for_a_difference_as_often_as_the_level_says() -> None:
    random = np.random.default_rng(0)
    pairs = random.normal(size=(4000, 2, 12)).tolist()
    share = sum(is_seen(before, after) for before, after in pairs) / len(pairs)
    # a binomial share of 4,000 tries has a deviation of 0.0034
    assert abs(share - LEVEL) < 0.011


def test_at_most_so_many_rows_are_kept_at_even_distances() -> None:
    assert spaced([0.12345678]) == [0.123457] and spaced([]) == []
    kept = spaced([float(n) for n in range(3 * MOST_ROWS)])
    assert kept == [3.0 * n for n in range(MOST_ROWS)]

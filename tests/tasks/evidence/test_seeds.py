"""Trainings with several seeds: mean, deviation and intervals by hand, and how often the interval holds the truth."""

from __future__ import annotations

from math import hypot, inf

import numpy as np
import pytest

from tasks.evidence.differences import RowArrays, mean_arrays, paired_difference
from tasks.evidence.seeds import SeedsResult, over_seeds


def of_gains(*gains: float, lower: bool = False) -> SeedsResult:
    """Return runs in each of which all of four rows gain the same."""
    runs = [(mean_arrays([0.5] * 4), mean_arrays([0.5 + gain] * 4)) for gain in gains]
    result = over_seeds(runs, lower_is_better=lower, resamples=200)
    assert result is not None
    return result


def test_where_rows_are_alike_the_interval_is_that_of_the_seeds() -> None:
    result = of_gains(0.02, 0.04, 0.06)
    # mean 0.04, deviation 0.02, t of 2 degrees of freedom 4.303: 4.303 * 0.02 / 3 ** 0.5 = 0.0497
    assert (result.gain, result.deviation, result.better) == (pytest.approx(0.04), pytest.approx(0.02), 3)
    assert result.after == pytest.approx((0.52, 0.54, 0.56)) and result.mean == pytest.approx(0.54)
    assert (result.low, result.high) == pytest.approx((-0.0097, 0.0897), abs=1e-4)
    assert not result.is_better and not result.is_worse


@pytest.mark.parametrize("size", [1.0, 0.9])
def test_where_seeds_are_alike_the_interval_is_that_of_the_rows(size: float) -> None:
    before, after = mean_arrays([0.0] * 10), mean_arrays([size] * 6 + [0.0] * 4)
    result = over_seeds([(before, after)] * 3, lower_is_better=False)
    one = paired_difference(before, after, is_binary=size == 1.0, lower_is_better=False)
    assert result is not None and one is not None
    assert (result.low, result.high) == pytest.approx((one.low, one.high))
    assert result.deviation == 0.0 and result.rows == 10


def test_both_kinds_of_noise_are_added_as_at_right_angles() -> None:
    rng = np.random.default_rng(0)
    rows = rng.normal(0.0, 1.0, 40)
    runs = [(mean_arrays(rows), mean_arrays(rows + gain + rng.normal(0.0, 0.5, 40))) for gain in (0.3, 0.5, 0.9)]
    result = over_seeds(runs, lower_is_better=False)
    assert result is not None
    for side in ("low", "high"):
        parts = [getattr(own, side) - result.gain for own in (result.over_rows, result.over_seeds)]
        assert abs(getattr(result, side) - result.gain) == pytest.approx(hypot(*parts))
        assert abs(getattr(result, side) - result.gain) > max(map(abs, parts))


def test_no_interval_goes_beyond_the_largest_gain() -> None:
    before = mean_arrays([0.0] * 10)
    runs = [(before, mean_arrays([1.0] * right + [0.0] * (10 - right))) for right in (10, 8, 9)]
    wide = over_seeds(runs, lower_is_better=False)
    assert wide is not None and wide.high > 1.0
    bounded = over_seeds(runs, lower_is_better=False, largest=1.0)
    assert bounded is not None and (bounded.low, bounded.high) == (wide.low, 1.0)


def test_direction_decides_what_is_a_gain() -> None:
    falls = of_gains(-0.20, -0.21, -0.19, lower=True)
    assert falls.is_better and falls.gain == pytest.approx(0.20) and falls.better == 3
    rises = of_gains(0.20, 0.21, 0.19, lower=True)
    assert rises.is_worse and rises.gain == pytest.approx(-0.20) and rises.better == 0


def test_the_score_of_a_run_is_by_token_and_rows_count_in_all_runs() -> None:
    def losses(*nats: float) -> RowArrays:
        # rows of 1, 3 and 6 tokens
        tokens = np.array([1.0, 3.0, 6.0])
        return RowArrays(np.array(nats) / tokens, np.stack([np.array(nats), tokens], axis=-1))

    missing = losses(1.0, 3.0, 6.0)
    missing = RowArrays(np.array([1.0, np.nan, 1.0]), missing.sums * [[1], [0], [1]])
    result = over_seeds(
        [(losses(2, 6, 12), losses(1, 3, 6)), (losses(2, 6, 12), losses(2, 0, 12)), (losses(2, 6, 12), missing)],
        lower_is_better=True,
        resamples=200,
    )
    assert result is not None
    # rows of 1 and 6 tokens: 14 nats before; 7, 14 and 7 after, of 7 tokens
    assert result.before == (2.0, 2.0, 2.0) and result.after == (1.0, 2.0, 1.0)
    assert result.gain == pytest.approx(2 / 3) and (result.better, result.rows) == (2, 2)


def test_one_row_or_group_bounds_nothing() -> None:
    one = over_seeds([(mean_arrays([0.0]), mean_arrays([gain])) for gain in (0.1, 0.2)], lower_is_better=False)
    assert one is not None and (one.low, one.high) == (-inf, inf)
    rows = [(mean_arrays([0.0] * 4), mean_arrays([gain, 1.0, 0.0, 1.0])) for gain in (0.1, 0.2)]
    grouped = over_seeds(rows, groups=["a"] * 4, lower_is_better=False)
    assert grouped is not None and (grouped.low, grouped.high, grouped.groups) == (-inf, inf, 1)


def test_one_run_and_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="2 or more seeds"):
        over_seeds([(mean_arrays([0.0]), mean_arrays([1.0]))], lower_is_better=False)
    with pytest.raises(ValueError, match="the same rows"):
        over_seeds([(mean_arrays([0.0] * n), mean_arrays([1.0] * n)) for n in (2, 3)], lower_is_better=False)
    nothing = (mean_arrays([np.nan]), mean_arrays([1.0]))
    assert over_seeds([nothing, nothing], lower_is_better=False) is None


@pytest.mark.parametrize(("of_rows", "of_seeds", "of_both"), [(0.4, 0.0, 0.3), (0.3, 0.1, 0.3), (0.1, 0.2, 0.1)])
def test_the_interval_holds_the_truth_in_95_of_100_repetitions(of_rows: float, of_seeds: float, of_both: float) -> None:
    """Rows, seeds, and what a seed does to a row, each with a deviation of its own."""
    rng = np.random.default_rng(1)
    repetitions, rows, seeds, held = 300, 40, 3, 0
    for _ in range(repetitions):
        gains = 0.2 + rng.normal(0, of_rows, rows) + rng.normal(0, of_seeds, (seeds, 1))
        gains = gains + rng.normal(0, of_both, (seeds, rows))
        before = mean_arrays(np.zeros(rows))
        result = over_seeds([(before, mean_arrays(own)) for own in gains], lower_is_better=False, resamples=200)
        assert result is not None
        held += result.low <= 0.2 <= result.high
    assert held / repetitions > 0.93


@pytest.mark.parametrize(("share", "spread"), [(0.1, 0.0), (0.7, 0.05), (0.95, 0.02)])
def test_the_interval_of_right_answers_holds_the_truth(share: float, spread: float) -> None:
    """The base has a tenth of the rows right; a training has each row right with the seed's own chance."""
    rng = np.random.default_rng(2)
    repetitions, rows, seeds, held = 300, 40, 3, 0
    for _ in range(repetitions):
        before = mean_arrays((rng.uniform(size=rows) < 0.1) * 1.0)
        chances = np.clip(rng.normal(share, spread, seeds), 0.0, 1.0)
        after = [mean_arrays((rng.uniform(size=rows) < chance) * 1.0) for chance in chances]
        result = over_seeds([(before, own) for own in after], lower_is_better=False, resamples=200)
        assert result is not None
        held += result.low <= share - 0.1 <= result.high
    assert held / repetitions > 0.93

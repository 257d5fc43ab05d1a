"""A paired difference: which rows count, scores from sums, wins in the measure's direction, and its interval."""

from __future__ import annotations

import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats
from support.paired_models import by_token, skewed

from tasks.evidence.differences import RowArrays, is_better, mean_arrays, paired_difference
from tasks.measures.measured import REDUCTIONS

NAN = float("nan")


def test_rows_count_where_they_count_for_both() -> None:
    result = paired_difference(
        mean_arrays([0.0, 1.0, NAN, 0.2]), mean_arrays([0.5, 0.5, 1.0, NAN]), is_binary=False, lower_is_better=False
    )
    assert result is not None
    assert (result.rows, result.before, result.after, result.difference) == (2, 0.5, 0.5, 0.0)
    assert (result.wins, result.losses, result.ties) == (1, 1, 0)


def test_no_row_that_counts_for_both_is_no_result() -> None:
    pair = mean_arrays([NAN, 1.0]), mean_arrays([1.0, NAN])
    assert paired_difference(*pair, is_binary=False, lower_is_better=False) is None
    assert paired_difference(mean_arrays([]), mean_arrays([]), is_binary=False, lower_is_better=False) is None


def test_loss_is_by_token_and_wins_are_falls() -> None:
    before = RowArrays(np.array([1.0, 2.0]), np.array([[1.0, 1.0], [18.0, 9.0]]))
    after = RowArrays(np.array([2.0, 1.0]), np.array([[2.0, 1.0], [9.0, 9.0]]))
    result = paired_difference(before, after, is_binary=False, lower_is_better=True)
    assert result is not None
    # 19 and 11 nats of 10 tokens
    assert (result.before, result.after) == (1.9, 1.1)
    assert result.difference == pytest.approx(-0.8)
    assert result.gain == pytest.approx(0.8)
    assert (result.wins, result.losses) == (1, 1)


def test_score_of_counts_is_of_the_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """F1 = 2 tp / (2 tp + fp + fn) of the summed counts, not a mean over rows."""
    monkeypatch.setitem(
        REDUCTIONS, "f1", lambda sums: 2 * sums[..., 0] / (2 * sums[..., 0] + sums[..., 1] + sums[..., 2])
    )
    wrong, right = [[0.0, 1.0, 1.0]], [[1.0, 0.0, 0.0]]
    before = RowArrays(np.repeat([0.0, 1.0], 20), np.array(wrong * 20 + right * 20), "f1")
    after = RowArrays(np.repeat([0.0, 1.0], [10, 30]), np.array(wrong * 10 + right * 30), "f1")
    result = paired_difference(before, after, is_binary=False, lower_is_better=False)
    assert result is not None
    # 2 * 20 / (40 + 40) and 2 * 30 / (60 + 20)
    assert (result.before, result.after) == (0.5, 0.75)
    assert 0.0 < result.low < 0.25 < result.high < 0.5
    # ten exchanges all one way: 2 / 1024
    assert result.p_value == pytest.approx(2 / 1024, abs=0.001)
    assert is_better(result)


@pytest.mark.parametrize("is_binary", [True, False])
@pytest.mark.parametrize(("before", "after"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_equal_differences_are_a_point(is_binary: bool, before: float, after: float) -> None:
    pair = mean_arrays([before] * 20), mean_arrays([after] * 20)
    result = paired_difference(*pair, is_binary=is_binary, lower_is_better=False)
    assert result is not None
    assert result.low == result.difference == result.high == after - before
    assert is_better(result) == (after > before)


def test_equal_falls_of_long_and_short_rows_are_a_point() -> None:
    tokens, loss = np.array([1.0, 7.0, 100.0, 3.0, 2.0, 5.0]), np.array([0.1, 2.3, 1.7, 0.9, 0.4, 1.1])
    before = RowArrays(loss, np.stack([loss * tokens, tokens], axis=1))
    after = RowArrays(loss - 0.1, np.stack([(loss - 0.1) * tokens, tokens], axis=1))
    result = paired_difference(before, after, is_binary=False, lower_is_better=True)
    assert result is not None
    assert result.low == result.high == pytest.approx(-0.1)
    assert result.p_value == pytest.approx(2 / 64) and is_better(result)


@pytest.mark.parametrize("number", [2, 5])
def test_so_few_rows_that_no_test_can_tell_have_an_interval_without_ends(number: int) -> None:
    before, after = mean_arrays([1.0] * number), mean_arrays([0.5 + 0.01 * row for row in range(number)])
    result = paired_difference(before, after, is_binary=False, lower_is_better=True)
    assert result is not None
    # 2 / 2^n is above 5 %
    assert (result.low, result.high) == (-np.inf, np.inf) and result.p_value == pytest.approx(2 / 2**number)
    right = paired_difference(
        mean_arrays([0.0] * number), mean_arrays([1.0] * number), is_binary=True, lower_is_better=False
    )
    assert right is not None and (right.low, right.high) == (-np.inf, np.inf)
    assert right.interval == "none: fewer than 6 rows" and not is_better(right)


def test_one_row_or_one_group_says_nothing() -> None:
    for is_binary in (True, False):
        one = paired_difference(mean_arrays([0.0]), mean_arrays([1.0]), is_binary=is_binary, lower_is_better=False)
        assert one is not None
        assert (one.low, one.high, one.p_value, one.detectable) == (-np.inf, np.inf, 1.0, None)
        assert not is_better(one)
    group = paired_difference(
        mean_arrays([0.0] * 9), mean_arrays([1.0] * 9), groups=["a"] * 9, is_binary=True, lower_is_better=False
    )
    assert group is not None
    assert (group.groups, group.low, group.p_value) == (1, -np.inf, 1.0)


def test_rows_with_an_empty_group_are_groups_of_their_own() -> None:
    pair = mean_arrays([0.0, 1.0, 0.0, 0.0]), mean_arrays([1.0, 1.0, 1.0, 0.0])
    alone = paired_difference(*pair, groups=["", "", "", ""], is_binary=True, lower_is_better=False)
    named = paired_difference(*pair, groups=["a", "", "a", ""], is_binary=True, lower_is_better=False)
    assert alone is not None
    assert named is not None
    assert (alone.groups, alone.test) == (None, "exact McNemar test")
    assert (named.groups, named.test, named.rows) == (3, "randomization test over groups", 4)


def test_related_rows_widen_the_interval() -> None:
    """Each row four times tells no more than each row once."""
    generator = np.random.default_rng(0)
    before, after, _ = skewed(generator, 60, 0.2)
    once = paired_difference(before, after, is_binary=False, lower_is_better=True)
    four = [mean_arrays(np.repeat(rows.values, 4)) for rows in (before, after)]
    names = np.repeat([f"row {number}" for number in range(60)], 4)
    grouped = paired_difference(*four, groups=names, is_binary=False, lower_is_better=True)
    ungrouped = paired_difference(*four, is_binary=False, lower_is_better=True)
    assert once is not None
    assert grouped is not None
    assert ungrouped is not None
    assert (grouped.low, grouped.high) == pytest.approx((once.low, once.high), abs=0.01)
    assert (ungrouped.high - ungrouped.low) < 0.6 * (once.high - once.low)


def test_the_same_seed_gives_the_same_result_and_another_a_close_one() -> None:
    before, after, _ = by_token(np.random.default_rng(1), 200, 0.1)
    results = [paired_difference(before, after, is_binary=False, lower_is_better=True, seed=seed) for seed in (0, 0, 1)]
    assert results[0] == results[1]
    first, other = results[0], results[2]
    assert first is not None
    assert other is not None
    assert first != other
    assert first.low == pytest.approx(other.low, abs=0.1 * (first.high - first.low))


def test_interval_agrees_with_scipy_for_many_rows() -> None:
    """scipy's BCa of the same ratio: by 1,000 rows all bootstrap intervals are alike."""
    before, after, _ = by_token(np.random.default_rng(2), 1000, 0.1)
    result = paired_difference(before, after, is_binary=False, lower_is_better=True)
    assert result is not None

    def fall(nats_before: np.ndarray, nats_after: np.ndarray, tokens: np.ndarray, axis: int) -> np.ndarray:
        return nats_after.sum(axis) / tokens.sum(axis) - nats_before.sum(axis) / tokens.sum(axis)

    data = before.sums[:, 0], after.sums[:, 0], before.sums[:, 1]
    generator = np.random.default_rng(0)
    theirs = stats.bootstrap(
        data, fall, paired=True, vectorized=True, n_resamples=4000, batch=500, method="BCa", rng=generator
    ).confidence_interval
    width = theirs.high - theirs.low
    assert result.low == pytest.approx(theirs.low, abs=0.08 * width)
    assert result.high == pytest.approx(theirs.high, abs=0.08 * width)


def test_direction_decides_what_is_better() -> None:
    fall = mean_arrays(np.linspace(1, 2, 40)), mean_arrays(np.linspace(0.8, 1.7, 40))
    lower = paired_difference(*fall, is_binary=False, lower_is_better=True)
    higher = paired_difference(*fall, is_binary=False, lower_is_better=False)
    assert lower is not None
    assert higher is not None
    assert is_better(lower)
    assert not is_better(higher)
    assert (lower.wins, higher.losses) == (40, 40)
    # corrected for several tests, the same difference may not be enough
    assert not is_better(lower, p_value=0.06)


@pytest.mark.parametrize(
    ("before", "after", "groups", "message"),
    [
        (mean_arrays([1.0]), mean_arrays([1.0, 0.0]), None, "need the same rows"),
        (mean_arrays([1.0]), mean_arrays([1.0]), ["a", "b"], "need the same rows"),
        (mean_arrays([1.0]), RowArrays(np.ones(1), np.ones((1, 2)), "exp_mean"), None, "do not compare"),
        (mean_arrays([1.0]), RowArrays(np.ones(1), np.ones((1, 3))), None, "do not compare"),
        (mean_arrays([0.5]), mean_arrays([1.0]), None, "neither 0 nor 1"),
    ],
)
def test_what_does_not_match_is_refused(
    before: RowArrays, after: RowArrays, groups: list[str] | None, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        paired_difference(before, after, groups=groups, is_binary=True, lower_is_better=False)


def test_two_thousand_rows_take_less_than_a_second() -> None:
    before, after, _ = by_token(np.random.default_rng(3), 2000, 0.1)
    start = time.process_time()
    assert paired_difference(before, after, is_binary=False, lower_is_better=True) is not None
    assert time.process_time() - start < 1.0


def test_memory_is_bounded() -> None:
    before, after, _ = by_token(np.random.default_rng(3), 100_000, 0.1)
    tracemalloc.start()
    # 10,000 resamples differ in the number of chunks alone
    assert paired_difference(before, after, is_binary=False, lower_is_better=True, resamples=120) is not None
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 200 * 2**20

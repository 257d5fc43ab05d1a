"""What a test set can show: at the detectable difference, four of five test sets find it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from conftest import ROOT
from support.paired_models import binary

from tasks.evidence.differences import PairedResult, is_better, mean_arrays, paired_difference
from tasks.evidence.p_values import mcnemar
from tasks.evidence.power import detectable_share, power_sentence


@pytest.mark.parametrize(("rows", "discordant"), [(47, 0.3), (200, 0.3), (200, 0.6)])
def test_mcnemar_finds_the_detectable_share_in_four_of_five_sets(rows: int, discordant: float) -> None:
    least = detectable_share(rows, discordant)
    assert least is not None
    generator = np.random.default_rng(0)
    wins, losses = (discordant + least) / 2, (discordant - least) / 2
    found = []
    for won, lost, _ in generator.multinomial(rows, [wins, losses, 1 - discordant], size=3000):
        found.append(won > lost and mcnemar(int(won), int(lost)) < 0.05)
    assert 0.76 <= np.mean(found) <= 0.84


def test_a_binary_gain_of_the_detectable_size_is_called_better_in_four_of_five_sets() -> None:
    """The gate's whole decision, interval included."""
    least = detectable_share(100, 0.3)
    assert least is not None
    generator, found = np.random.default_rng(1), []
    for seed in range(400):
        before, after, _ = binary(generator, 100, wins=(0.3 + least) / 2, losses=(0.3 - least) / 2)
        result = paired_difference(before, after, is_binary=True, lower_is_better=False, seed=seed, resamples=1000)
        assert result is not None
        found.append(is_better(result))
    assert 0.76 <= np.mean(found) <= 0.84


@pytest.mark.parametrize(("rows", "quantiles"), [(20, 2.163 + 0.861), (100, 1.997 + 0.845)])
def test_a_mean_gain_of_the_detectable_size_is_called_better_in_four_of_five_sets(rows: int, quantiles: float) -> None:
    """The standard deviation is 1; `quantiles` are Student's at 1 - 0.025 * rows / (rows + 3) and 0.8."""
    least = quantiles / rows**0.5
    generator, found, detectable = np.random.default_rng(2), [], []
    for seed in range(1000):
        before = generator.normal(size=rows)
        after = before + least + generator.normal(size=rows)
        result = paired_difference(
            mean_arrays(before), mean_arrays(after), is_binary=False, lower_is_better=False, seed=seed, resamples=600
        )
        assert result is not None
        found.append(is_better(result))
        detectable.append(result.detectable)
    assert 0.76 <= np.mean(found) <= 0.84
    assert np.mean(detectable) == pytest.approx(least, rel=0.03)


def test_detectable_share_by_hand() -> None:
    assert detectable_share(5) is None
    # with 6 rows only 6 : 0 is enough; at a discordant share of d, all wins, d ** 6 = 0.8
    assert detectable_share(6, 0.0) == pytest.approx(0.8 ** (1 / 6), abs=1e-4)
    # Connor's formula for many rows: (1.960 * 0.5 ** 0.5 + 0.842 * (0.5 - d * d) ** 0.5) / 10000 ** 0.5 = d = 0.0198
    assert detectable_share(10_000, 0.5) == pytest.approx(0.0198, abs=0.0002)
    with pytest.raises(ValueError, match="give 1 row or more"):
        detectable_share(0)


def result_of(**changes: object) -> PairedResult:
    result = PairedResult(
        before=0.5, after=0.531, difference=0.031, low=-0.05, high=0.11, p_value=0.5, test="", interval="", rows=47,
        groups=None, wins=5, losses=4, ties=38, detectable=0.142, is_binary=True, lower_is_better=False,
    )  # fmt: skip
    return replace(result, **changes)  # type: ignore[arg-type]


def test_sentence_says_what_the_rows_can_show() -> None:
    assert power_sentence(result_of()) == (
        "47 rows can show a difference of 14.2 points or more (80 % power); the one seen is 3.1. "
        "The test set is too small to tell it from noise."
    )
    assert power_sentence(result_of(difference=-0.2, p_value=0.01)) == (
        "47 rows can show a difference of 14.2 points or more (80 % power); the one seen is 20.0."
    )
    assert power_sentence(result_of(p_value=0.04, groups=12)) == (
        "47 rows in 12 groups can show a difference of 14.2 points or more (80 % power); the one seen is 3.1. "
        "The test set is too small to show one like it every time."
    )
    loss = result_of(is_binary=False, difference=-0.25, detectable=0.125, rows=1)
    assert power_sentence(loss).startswith(
        "1 row can show a difference of 0.125 or more (80 % power); the one seen is 0.25"
    )
    assert "12.5 points" in power_sentence(loss, as_points=True)


def test_sentence_of_rows_that_can_show_nothing() -> None:
    assert power_sentence(result_of(rows=5, detectable=None)) == (
        "5 rows are too few to show any difference: no test of fewer than 6 gives less than 5 %."
    )
    assert power_sentence(result_of(rows=50, groups=3, detectable=None)).startswith("50 rows in 3 groups are too few")
    assert "is not known" in power_sentence(result_of(detectable=None, is_binary=False))


def test_docs_have_the_numbers_of_the_code() -> None:
    page = (ROOT / "docs" / "evidence.md").read_text(encoding="utf-8")
    for rows in (30, 50, 100, 300, 1000, 10_000):
        shown = [
            f"{100 * share:.1f} points" for share in map(partial(detectable_share, rows), (0.1, 0.3, 0.5)) if share
        ]
        assert f"| {rows:,} | {' | '.join(shown)} |" in page

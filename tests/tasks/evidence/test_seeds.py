"""Trainings with several seeds: mean, deviation and interval by hand, and the sentence that says what they show."""

from __future__ import annotations

import pytest

from tasks.evidence.differences import PairedResult, mean_arrays, paired_difference
from tasks.evidence.seeds import over_seeds, seeds_sentence


def of_gain(gain: float, is_binary: bool = False, lower: bool = False) -> PairedResult:
    result = paired_difference(
        mean_arrays([0.0, 0.0]), mean_arrays([gain, gain]), is_binary=is_binary, lower_is_better=lower, resamples=100
    )
    assert result is not None
    return result


def test_interval_over_seeds_by_hand() -> None:
    result = over_seeds([of_gain(0.02), of_gain(0.04), of_gain(0.06)])
    # mean 0.04, deviation 0.02, t of 2 degrees of freedom 4.303: 4.303 * 0.02 / 3 ** 0.5 = 0.0497
    assert (result.mean, result.deviation, result.better) == (pytest.approx(0.04), pytest.approx(0.02), 3)
    assert (result.low, result.high) == pytest.approx((-0.0097, 0.0897), abs=1e-4)
    assert not result.is_better
    assert seeds_sentence(result, as_points=True) == (
        "Over 3 seeds the difference is +4.0 points on average (SD 2.0; interval -1.0 to +9.0); "
        "3 of 3 seeds are better. Another seed may as well show no gain."
    )


def test_direction_decides_what_is_better() -> None:
    falls = [of_gain(gain, lower=True) for gain in (-0.20, -0.21, -0.19)]
    result = over_seeds(falls)
    assert result.is_better
    assert seeds_sentence(result).endswith("3 of 3 seeds are better. It is better by more than the noise of the seeds.")
    rises = over_seeds([of_gain(gain, lower=True) for gain in (0.20, 0.21, 0.19)])
    assert not rises.is_better
    assert seeds_sentence(rises).endswith("It is worse by more than the noise of the seeds.")


def test_one_seed_and_other_measures_are_refused() -> None:
    with pytest.raises(ValueError, match="train with 2 or more"):
        over_seeds([of_gain(0.1)])
    with pytest.raises(ValueError, match="different measures"):
        over_seeds([of_gain(1.0, is_binary=True), of_gain(0.1)])

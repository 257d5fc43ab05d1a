"""Trainings repeated with several seeds: how much the gain depends on the seed and not on the data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from scipy import stats

from tasks.evidence.differences import PairedResult


@dataclass(frozen=True)
class SeedsResult:
    """The same comparison for trainings with several seeds.

    `mean` and `deviation` are of the differences (after - before), `deviation` with seeds - 1 in its denominator.
    [`low`, `high`] is Student's interval of the mean over seeds. It is about other seeds on these rows; the interval of
    each `PairedResult` is about other rows for this seed. `better` counts seeds with a gain in the measure's direction.
    """

    differences: tuple[float, ...]
    mean: float
    deviation: float
    low: float
    high: float
    better: int
    is_binary: bool
    lower_is_better: bool

    @property
    def is_better(self) -> bool:
        """Whether the whole interval over seeds lies on the better side of 0."""
        return self.high < 0.0 if self.lower_is_better else self.low > 0.0


def over_seeds(results: Sequence[PairedResult], level: float = 0.95) -> SeedsResult:
    """Return mean, deviation and Student's t interval of the differences of trainings with several seeds.

    mean +- t * deviation / sqrt(seeds), with seeds - 1 degrees of freedom.

    Raises:
        ValueError: there are fewer than two results, or they are of different measures.
    """
    if len(results) < 2:
        raise ValueError(f"{len(results)} seeds have no deviation; train with 2 or more")
    if len({(result.is_binary, result.lower_is_better) for result in results}) > 1:
        raise ValueError("the results are of different measures; give one comparison for each seed")
    differences = tuple(result.difference for result in results)
    mean, deviation = fmean(differences), stdev(differences)
    half = float(stats.t.ppf((1 + level) / 2, len(results) - 1)) * deviation / len(results) ** 0.5
    return SeedsResult(
        differences=differences,
        mean=mean,
        deviation=deviation,
        low=mean - half,
        high=mean + half,
        better=sum(result.gain > 0 for result in results),
        is_binary=results[0].is_binary,
        lower_is_better=results[0].lower_is_better,
    )


def seeds_sentence(result: SeedsResult, as_points: bool | None = None) -> str:
    """Return the mean difference over seeds with its interval, and whether it is more than the seeds' own noise.

    `as_points` writes hundredths of the score, as for shares; by default for measures of 0 and 1.
    """
    points = result.is_binary if as_points is None else as_points

    def shown(value: float) -> str:
        return f"{value * 100:+.1f}" if points else f"{value:+.3g}"

    deviation = shown(result.deviation).removeprefix("+")
    seeds = len(result.differences)
    sentence = (
        f"Over {seeds} seeds the difference is {shown(result.mean)}{' points' if points else ''} on average "
        f"(SD {deviation}; interval {shown(result.low)} to {shown(result.high)}); "
        f"{result.better} of {seeds} seeds are better."
    )
    if result.low <= 0.0 <= result.high:
        return f"{sentence} Another seed may as well show no gain."
    return f"{sentence} It is {'better' if result.is_better else 'worse'} by more than the noise of the seeds."

"""The typed values of the comparison of models: differences with intervals, the rules of the gate, the verdict."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from pydantic import Field

from configs.measures import MEASURES, Measure
from configs.wire_type import WireType


class Difference(WireType):
    """How a measure differs between two models on the same rows. `difference` is after minus before."""

    measure: str = Field(description="The measure's key: its name, or the title that the user gave it.")
    name: str = Field(description="Its name in `configs.measures.MEASURES`.")
    lower_is_better: bool = False
    set: str
    model: str = Field(description="The model with the value `after`, such as `tuned` or `quantized_4bit`.")
    versus: str = Field(description="The model with the value `before`, such as `base` or `few_shot`.")
    before: float
    after: float
    difference: float
    low: float | None = Field(
        description="Lower end of the 95 % interval of the difference; None where the rows are too few to bound it."
    )
    high: float | None
    p_value: float = Field(description="Two-sided.")
    test: str = Field(description="The test behind the p-value, in words.")
    rows: int = Field(description="Rows that count for both models.")
    groups: int = Field(0, description="Groups of rows that were resampled together; 0 where each row stands alone.")
    wins: int = Field(description="Rows on which `model` is better.")
    losses: int
    ties: int
    detectable: float | None = Field(
        None, description="The smallest difference that so many rows show with 80 % power; None where unknown."
    )

    @property
    def shown(self) -> Measure:
        """How the measure is titled, written and oriented."""
        measure = MEASURES[self.name]
        title = measure.title if self.measure == self.name else self.measure.replace("_", " ")
        words = measure.words if self.measure == self.name else ""
        return replace(measure, title=title, words=words, lower_is_better=self.lower_is_better)

    @property
    def p_words(self) -> str:
        """The p-value as text; small ones as a bound."""
        return "< 0.0001" if self.p_value < 1e-4 else f"{self.p_value:.2g}"

    @property
    def gain(self) -> float:
        """The difference in the measure's own direction: positive where `model` is better."""
        return -self.difference if self.lower_is_better else self.difference

    @property
    def gain_interval(self) -> tuple[float, float]:
        """The 95 % interval of `gain`."""
        low, high = self.bounds
        return (-high, -low) if self.lower_is_better else (low, high)

    @property
    def bounds(self) -> tuple[float, float]:
        """The 95 % interval of `difference`; infinite where the rows are too few to bound it."""
        return (-inf if self.low is None else self.low, inf if self.high is None else self.high)

    @property
    def interval_words(self) -> str:
        """The 95 % interval as text, such as `+1.2 to +3.4`, in points for a share."""
        if self.low is None or self.high is None:
            return "unbounded: too few rows"
        return " to ".join(self.shown.difference(value).removesuffix(" points") for value in (self.low, self.high))


class RuleOutcome(WireType):
    """What became of one rule of the gate for one artifact."""

    rule: str = Field(description="The rule in words.")
    passed: bool
    required: bool = True
    reason: str = Field(description="What was found, in words, with numbers.")


class ArtifactVerdict(WireType):
    """Whether one model may be published, with a row for each rule."""

    model: str = Field(description="`tuned`, or a quantized copy's name.")
    promote: bool
    outcomes: list[RuleOutcome]

    @property
    def reasons(self) -> list[str]:
        """Why the model is held back, one for each required rule that it broke."""
        return [outcome.reason for outcome in self.outcomes if outcome.required and not outcome.passed]


class Verdict(WireType):
    """The comparison of all models of a run."""

    headline: str = Field(description="One sentence: is the tuned model better, by how much, with its interval.")
    is_better: bool = Field(False, description="Whether the tuned model keeps the required rules of the gate.")
    sentences: list[str] = Field([], description="What else to know: prompting, power, warnings.")
    differences: list[Difference] = Field([])
    artifacts: list[ArtifactVerdict] = Field([])

    def of(self, model: str) -> ArtifactVerdict:
        """Return the verdict on the model of a name."""
        return next(artifact for artifact in self.artifacts if artifact.model == model)

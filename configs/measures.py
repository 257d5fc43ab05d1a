"""The table of measures: the scores that a model can have, with their names, number formats and directions.

`Scores` is the table. Each field that holds a measure carries its `Measure`; tables, charts, verdicts, model cards and
logs read it from there. A new measure is a field here, and a function in tasks/evaluate that computes it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from configs.wire_type import WireType


@dataclass(frozen=True)
class Measure:
    """How one measure is named, written and compared."""

    title: str
    """Its name in cards and logs."""
    source: Literal["tokens", "answers", "pairs", "rewards"]
    """What it is computed from."""
    number: str = "{:.1%}"
    """Number format in tables."""
    short_number: str = "{:.1%}"
    """Number format in charts and sentences."""
    words: str = ""
    """Its name in sentences, where that is not the title."""
    hub_name: str = ""
    """Metric type in a card's metadata, where that is not the field's name."""
    lower_is_better: bool = False
    always_shown: bool = False
    """Whether tables have a column for it even where no model has it."""
    chart_unit: str | None = None
    """Axis of its bar chart. A measure without one has no chart, and verdicts and logs leave it out."""
    reward_model_unit: str | None = None
    """Axis of the chart of reward models, if their unit differs."""

    @property
    def name_in_sentences(self) -> str:
        """Its name within a sentence."""
        return self.words or self.title

    @property
    def heading(self) -> str:
        """Its name above its chart and at the beginning of a sentence."""
        return f"{self.name_in_sentences[0].upper()}{self.name_in_sentences[1:]}"


class Scores(WireType):
    """Scores of one model on the held-out rows. None where a score has no meaning (exact match of plain text)."""

    eval_loss: Annotated[
        float | None,
        Measure(
            "loss",
            "tokens",
            number="{:.4f}",
            short_number="{:.3f}",
            words="held-out loss",
            hub_name="loss",
            lower_is_better=True,
            always_shown=True,
            chart_unit="nats per token",
        ),
    ] = Field(description="Mean negative log-likelihood of a completion token, in nats; None for a reward model.")
    perplexity: Annotated[
        float | None,
        Measure(
            "perplexity",
            "tokens",
            number="{:.4g}",
            short_number="{:.3f}",
            lower_is_better=True,
            always_shown=True,
        ),
    ] = Field(description="exp(eval_loss).")
    exact_match: Annotated[
        float | None, Measure("exact match", "answers", always_shown=True, chart_unit="share of rows")
    ] = Field(description="Share of the generated rows whose answer equals the expected one.")
    rouge_l: Annotated[float | None, Measure("ROUGE-L", "answers", hub_name="rouge", always_shown=True)] = Field(
        description="Mean ROUGE-L F1; only where expected answers are long."
    )
    preference_accuracy: Annotated[
        float | None, Measure("preference accuracy", "pairs", chart_unit="share of pairs")
    ] = Field(
        None, description="Share of the pairs whose chosen answer is more likely, or scores higher, than the other."
    )
    preference_margin: Annotated[
        float | None,
        Measure(
            "preference margin",
            "pairs",
            number="{:.4f}",
            short_number="{:.3f}",
            chart_unit="nats",
            reward_model_unit="score",
        ),
    ] = Field(None, description="Mean difference of log-likelihood in nats, or of score, between chosen and rejected.")
    mean_reward: Annotated[
        float | None,
        Measure("mean reward", "rewards", number="{:.4f}", short_number="{:.3f}", chart_unit="reward"),
    ] = Field(None, description="Mean reward of the generated answers, weights applied.")
    row_losses: list[float] = Field(
        [],
        description="Summed negative log-likelihood of the counted tokens of each row, in nats, in the rows' order: of "
        "at most 2,000 rows, for the test whether two models differ by more than noise.",
    )
    loss_rows: int
    loss_tokens: int
    generated_rows: int
    size_bytes: int = Field(description="Size of the model's weight files.")
    quantized_share: float | None = Field(
        None,
        description="Share of the weights of linear layers that is quantized, counted in the loaded model; None for a "
        "model that is not quantized.",
    )

    @property
    def is_of_reward_model(self) -> bool:
        """Whether the model yields a score, and no loss of tokens."""
        return self.eval_loss is None

    def as_metrics(self) -> dict[str, Any]:
        """Return the scores for metrics.json, without the values of single rows."""
        return self.model_dump(exclude={"row_losses"})

    def value(self, name: str) -> float | None:
        """Return the measure called `name`; None where the model has none."""
        value: float | None = getattr(self, name)
        return value


MEASURES: dict[str, Measure] = {
    name: measure
    for name, field in Scores.model_fields.items()
    for measure in field.metadata
    if isinstance(measure, Measure)
}
"""Every measure by its name, which is that of the field in `Scores` and of the key in metrics.json, in column order."""

HEADLINES: tuple[str, ...] = tuple(name for name, measure in MEASURES.items() if measure.chart_unit is not None)
"""Measures that charts, verdicts and logs show."""


def shown_measures(scores: Iterable[Scores]) -> list[str]:
    """Return the measures that a table of `scores` has columns for: those always shown, and those that a model has."""
    known = {name for own in scores for name in MEASURES if own.value(name) is not None}
    return [name for name, measure in MEASURES.items() if measure.always_shown or name in known]


def formatted(name: str, scores: Scores) -> str:
    """Return a measure as text; a dash where the model has none."""
    value = scores.value(name)
    return "-" if value is None else MEASURES[name].number.format(value)

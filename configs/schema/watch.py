"""The watch section of a training: what is measured while it runs, what stops it early, and which weights are kept."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.schema.measures import MeasureConfig, measures_from_names
from configs.schema.section import Section


class WatchConfig(Section):
    """What is measured during training, and what stops it early."""

    evaluations: int = Field(
        10,
        ge=0,
        description="Number of times that the held-out loss (rloo, grpo: reward) is measured during training, at even "
        "intervals; 0 for never.",
    )
    early_stopping: int | None = Field(
        None,
        ge=1,
        description="Stop after this number of evaluations without an improvement; when not set, never.",
    )
    keep: Literal["best", "last"] = Field(
        "best",
        description="Which weights to keep: those with the lowest held-out loss (highest reward), or those of the last "
        "step.",
    )
    spike_threshold: float | None = Field(
        20.0,
        ge=0.0,
        description="Stop with an error at a step whose loss is this number of robust deviations above the median of "
        "the last 50 steps; 0 or null for never. A loss that is not a number always stops the run.",
    )

    measures: list[MeasureConfig] = Field(
        [],
        description="Measures of generated answers to some held-out rows, taken whenever the held-out loss is; written "
        "as in evaluate.measures.",
    )
    measured_rows: int = Field(32, ge=1, description="Held-out rows that are answered for `measures`.")
    best_by: str = Field(
        "",
        description="The measure by which the best weights are kept and training stops early: a name or title of "
        "`measures`; when empty, the held-out loss (rloo, grpo: reward).",
    )

    @field_validator("measures", mode="before")
    @classmethod
    def _names_stand_for_measures(cls, value: Any) -> Any:
        return measures_from_names(value)

    @model_validator(mode="after")
    def _measures_can_be_taken(self) -> WatchConfig:
        keys = [measure.key for measure in self.measures]
        if len(set(keys)) < len(keys):
            raise ValueError("measures names one more than once; give each a `title`")
        if keys and not self.evaluations:
            raise ValueError("measures are taken with the held-out loss; set train.watch.evaluations above 0")
        if self.best_by and self.best_by not in keys:
            raise ValueError(f"best_by={self.best_by} is no measure of train.watch.measures; add it there")
        return self

    @property
    def largest_deviation(self) -> float | None:
        """Number of robust deviations at which a loss stops the run, or None for never: a threshold of 0 or null."""
        return self.spike_threshold or None

    @model_validator(mode="after")
    def _patience_can_run_out(self) -> WatchConfig:
        if self.early_stopping is not None and self.early_stopping >= self.evaluations:
            # with one evaluation, even the smallest value, 1, is too large
            lower = "lower it, or " if self.evaluations > 1 else ""
            raise ValueError(
                f"early_stopping={self.early_stopping} can never stop a run with evaluations={self.evaluations}; "
                f"{lower}set train.watch.evaluations above it"
            )
        return self

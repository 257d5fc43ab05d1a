"""The watch section of a training: what is measured while it runs, what stops it early, and which weights are kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

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

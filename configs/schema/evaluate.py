"""The evaluate section of a config: scores on the held-out rows, what they are compared with, and what was lost."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.effective.batches import MOST_EVALUATION_ROWS
from configs.effective.lengths import LONGEST_ANSWER
from configs.schema.measures import (
    HarnessTaskConfig,
    JudgeConfig,
    MeasureConfig,
    MeasureName,
    RetainedConfig,
    measures_from_names,
)
from configs.schema.section import Section

__all__ = [
    "EvaluateConfig",
    "HarnessTaskConfig",
    "JudgeConfig",
    "MeasureConfig",
    "MeasureName",
    "RetainedConfig",
]


class EvaluateConfig(Section):
    """Scores on the held-out rows."""

    generate_rows: int = Field(
        256,
        ge=0,
        description="Held-out rows answered by greedy generation, for exact match; the loss is measured on all of "
        "them.",
    )
    max_new_tokens: int | None = Field(
        None,
        ge=1,
        description="Longest generated answer in tokens; when not set, that of the longest expected answer, at most "
        f"{LONGEST_ANSWER}.",
    )
    batch_size: int | None = Field(
        None,
        ge=1,
        description="Rows per forward pass; when not set, the most that fit by the plan, at most "
        f"{MOST_EVALUATION_ROWS}.",
    )
    num_samples: int = Field(
        8, ge=0, description="Held-out rows that the report shows with the answers before and after training."
    )
    few_shot: int = Field(
        0,
        ge=0,
        le=64,
        description="Training rows shown to the base model as examples before each held-out row, the same for all: the "
        "score that prompting alone reaches. 0 for none.",
    )
    loss: Literal["measure", "skip"] = Field(
        "measure", description="Whether the held-out loss is measured; without it, generated answers decide."
    )
    load_in: Literal["as_saved", "4bit"] = Field(
        "as_saved",
        description="How models are loaded for scoring: `4bit` is NF4, for models that one GPU cannot hold; base and "
        "tuned model are then both scored in 4 bits. Quantized copies stay as they are.",
    )
    gpus: int = Field(
        1, ge=1, le=16, description="GPUs of a node over which a model is divided for scoring, layer by layer."
    )
    shards: int = Field(
        1,
        ge=1,
        le=1000,
        description="Number of pods that score the held-out rows of a model in parallel (Flyte map tasks); any number "
        "gives the same scores.",
    )

    measures: list[MeasureConfig] = Field(
        [],
        description="Measures of the generated answers, by name or with their settings; when empty, those that suit "
        "what the expected answers look like. Exact match is always measured.",
    )
    judge: JudgeConfig = Field(JudgeConfig(), description="A model that judges answers.")
    retained: RetainedConfig = Field(RetainedConfig(), description="What the model should not lose in training.")

    @field_validator("measures", mode="before")
    @classmethod
    def _names_stand_for_measures(cls, value: Any) -> Any:
        return measures_from_names(value)

    @model_validator(mode="after")
    def _names_are_unique(self) -> EvaluateConfig:
        names = [measure.key for measure in self.measures]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"evaluate.measures names {name} more than once; give each a `title`")
        return self

    @model_validator(mode="after")
    def _something_is_measured(self) -> EvaluateConfig:
        if self.loss == "skip" and self.generate_rows == 0:
            raise ValueError(
                "evaluate.loss=skip and evaluate.generate_rows=0 leave nothing to measure; raise the latter"
            )
        return self

    @property
    def rows_per_pass(self) -> int:
        """Rows per forward pass: `batch_size` as set by the user or by a plan, else 32."""
        return self.batch_size or MOST_EVALUATION_ROWS

    def for_scoring(self, is_rival: bool = False) -> EvaluateConfig:
        """Return the settings on which the scores of one model depend, so that others do not score it again.

        Of a rival, such as the base with examples, only the held-out rows are scored. `gpus` is not among them: scores
        over several GPUs differ by rounding at most.
        """
        changes = {"few_shot": 0, "judge": JudgeConfig(), "gpus": 1, "shards": 1, "num_samples": 8}
        return self.model_copy(update=changes | ({"retained": RetainedConfig(general_text="none")} if is_rival else {}))

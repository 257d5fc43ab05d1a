"""The evaluate section of a config: scores on the held-out rows, what they are compared with, and what was lost."""

from __future__ import annotations

from typing import Any, Literal
from urllib.parse import urlsplit

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
from configs.schema.others import OtherModelConfig
from configs.schema.section import Section

__all__ = [
    "EvaluateConfig",
    "HarnessTaskConfig",
    "JudgeConfig",
    "MeasureConfig",
    "MeasureName",
    "OtherModelConfig",
    "RetainedConfig",
]

ScoredAs = Literal["own", "other", "prompting"]


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
    others: list[OtherModelConfig] = Field(
        [], description="Other models that answer the same rows, such as the one to be replaced."
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
    def _others_can_be_told_apart(self) -> EvaluateConfig:
        titles = [other.title for other in self.others]
        for title in titles:
            if titles.count(title) > 1:
                raise ValueError(f"evaluate.others names {title} more than once; give each its own `title`")
        servers = sorted({urlsplit(other.endpoint).netloc for other in self.others if other.endpoint is not None})
        if len(servers) > 1:
            raise ValueError(
                f"evaluate.others names endpoints of {len(servers)} servers, and there is one key for them: the key of "
                "one would be sent to another; compare them in runs of their own"
            )
        return self

    @model_validator(mode="after")
    def _something_is_measured(self) -> EvaluateConfig:
        if self.loss == "skip" and self.generate_rows == 0:
            raise ValueError(
                "evaluate.loss=skip and evaluate.generate_rows=0 leave nothing to measure; raise the latter"
            )
        return self

    @model_validator(mode="after")
    def _there_are_answers_that_may_refuse(self) -> EvaluateConfig:
        if self.judge.refusals and not self.retained.refusals:
            raise ValueError(
                "evaluate.judge.refusals=true needs evaluate.retained.refusals: true, whose answers are judged; set it"
            )
        return self

    @property
    def rows_per_pass(self) -> int:
        """Rows per forward pass: `batch_size` as set by the user or by a plan, else 32."""
        return self.batch_size or MOST_EVALUATION_ROWS

    def for_scoring(self, of: ScoredAs = "own") -> EvaluateConfig:
        """Return the settings on which the scores of one model depend, so that others do not score it again.

        Of a run's own models, all is scored; of another model the rows and general text; of prompting, which is the
        base with examples, the rows alone. `gpus` is not among them: scores over several GPUs differ by rounding at
        most.
        """
        changes = {"few_shot": 0, "others": [], "judge": JudgeConfig(), "gpus": 1, "shards": 1, "num_samples": 8}
        text = {"own": None, "other": self.retained.general_text, "prompting": "none"}[of]
        return self.model_copy(
            update=changes | ({} if text is None else {"retained": RetainedConfig(general_text=text)})
        )

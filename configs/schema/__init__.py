"""Every setting that a user may write, with its unit, its default and its bounds.

A run is one config file. The classes are frozen and forbid unknown keys, so a misspelt setting is an error. Validators
reject a config; they never rewrite a setting. Nothing here imports torch or flytekit, so `--help` and registration stay
fast.
"""

from __future__ import annotations

import time
from typing import Any, Literal

from pydantic import Field, model_validator

from configs.artifacts import QUANTIZATIONS, methods_of
from configs.errors import either
from configs.objectives import SCORING
from configs.schema.data import (
    CheckConfig,
    CheckPolicy,
    ColumnMap,
    DataConfig,
    RowFormat,
    SourceConfig,
    ToleranceConfig,
)
from configs.schema.evaluate import EvaluateConfig
from configs.schema.gate import GateConfig, GateRule
from configs.schema.model import ModelConfig
from configs.schema.plan import PlanConfig
from configs.schema.push_to_hub import PushConfig
from configs.schema.quantize import QuantizeConfig
from configs.schema.section import RUN_NAME_PATTERN, LocalFolder, RunName, Section
from configs.schema.tokenize import TokenizeConfig, fault_of_tokenize
from configs.schema.train import PROMPT_METHODS, RewardFunctionConfig, TrainConfig

__all__ = [
    "CheckConfig",
    "CheckPolicy",
    "ColumnMap",
    "DataConfig",
    "EvaluateConfig",
    "FineTuneConfig",
    "GateConfig",
    "GateRule",
    "ModelConfig",
    "PlanConfig",
    "PushConfig",
    "QuantizeConfig",
    "RewardFunctionConfig",
    "RowFormat",
    "RunConfig",
    "SourceConfig",
    "TokenizeConfig",
    "ToleranceConfig",
    "TrainConfig",
    "fault_of_tokenize",
]


OUTPUT_EXISTS = (
    "What a run on a laptop does if its output folder holds a run of another config: `number` writes to <name>-2, "
    "<name>-3, ...; `replace` replaces it when the run ends; `stop` refuses to start. A run of the same config is "
    "always replaced."
)


class RunConfig(Section):
    """The whole config of a run, as a file or a form gives it."""

    def __repr__(self) -> str:
        # a workflow that returns its config prints it beside the table of scores
        return f"{type(self).__name__}(name={getattr(self, 'name', '')!r}, ...)"

    def __getstate__(self) -> dict[Any, Any]:
        # flytekit caches the literal of an input by a hash of the pickled value (TypeEngine._LITERAL_CACHE); without
        # the time, a second run in the same session would get the files as they were at the first
        return {**super().__getstate__(), "pickled_at": time.monotonic_ns()}


class FineTuneConfig(RunConfig):
    """The whole config of a run. Only `data.sources` has no default; all workflows but `prepare_data` also need
    `model.name`."""

    name: RunName = Field(
        "fine-tune", pattern=RUN_NAME_PATTERN, description="Name of the run, of its report, and of its output folder."
    )
    model: ModelConfig = Field(ModelConfig(), description="The base model; only prepare_data works without one.")
    data: DataConfig = Field(description="Where rows come from, and how they are checked and split.")
    train: TrainConfig = Field(TrainConfig(), description="Objective, method, schedule, and processes.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Scores on the held-out rows.")
    quantize: QuantizeConfig = Field(QuantizeConfig(), description="Quantized copies of the tuned model.")
    gate: GateConfig = Field(GateConfig(), description="What a model must show before it is published.")
    push_to_hub: PushConfig = Field(PushConfig(), description="Publication of the tuned model on a hub.")
    tokenize: TokenizeConfig = Field(TokenizeConfig(), description="Chat template, sequence length and masks.")
    plan: PlanConfig = Field(PlanConfig(), description="Further GPU types, and what to do if the plan does not fit.")
    output_directory: LocalFolder = Field(
        "outputs", description="Local folder for the folders of runs on a laptop: models, report, metrics."
    )
    output_exists: Literal["number", "replace", "stop"] = Field("number", description=OUTPUT_EXISTS)

    @model_validator(mode="after")
    def _quantized_copies_can_be_made(self) -> FineTuneConfig:
        for method in self.quantize.methods if self.train.objective in SCORING else []:
            if not QUANTIZATIONS[method].takes_reward_models:
                raise ValueError(
                    f"quantize.methods names {method}, which is for language models, but "
                    f"train.objective={self.train.objective} trains a reward model; "
                    f"choose {either(methods_of('bitsandbytes'))}"
                )
        return self

    @model_validator(mode="after")
    def _pushed_artifacts_are_made(self) -> FineTuneConfig:
        for artifact in self.push_to_hub.artifacts if self.push_to_hub.repository else []:
            if artifact in QUANTIZATIONS and artifact not in self.quantize.methods:
                raise ValueError(
                    f"push_to_hub.artifacts names {artifact}, which quantize.methods does not make; add it there, or "
                    "remove it here"
                )
            if artifact == "adapter" and self.train.method == "full":
                raise ValueError(
                    "push_to_hub.artifacts names adapter, which train.method=full does not make; push the model"
                )
            if artifact != "adapter" and self.train.method in PROMPT_METHODS:
                raise ValueError(
                    f"push_to_hub.artifacts names {artifact}, but train.method={self.train.method} does not change the "
                    "base model's weights; push the adapter"
                )
        return self

    @model_validator(mode="after")
    def _tokens_suit_the_training(self) -> FineTuneConfig:
        objective, method = self.train.objective, self.train.method
        fault = fault_of_tokenize(self.tokenize, objective)
        if fault is not None:
            raise ValueError(fault)
        if self.tokenize.packing != "none" and method in PROMPT_METHODS:
            raise ValueError(
                f"tokenize.packing={self.tokenize.packing} puts several rows into one sequence, but "
                f"train.method={method} puts one prompt before each sequence; set tokenize.packing to none"
            )
        if self.tokenize.new_special_tokens and method in PROMPT_METHODS:
            raise ValueError(
                f"tokenize.new_special_tokens adds embeddings, which train.method={method} does not train; set "
                "train.method to full or lora"
            )
        return self

"""The config of an alignment: SFT, perhaps a reward model, then preference optimization or reinforcement learning.

A phase is one training. The first phase trains the base model; every later phase starts from the SFT model.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError, model_validator

from configs.errors import either
from configs.objectives import ONLINE, Phase, objectives_of
from configs.schema import (
    OUTPUT_EXISTS,
    EvaluateConfig,
    FineTuneConfig,
    GateConfig,
    ModelConfig,
    PushConfig,
    QuantizeConfig,
    RunConfig,
    TokenizeConfig,
)
from configs.schema.data import DataConfig
from configs.schema.plan import PlanConfig
from configs.schema.section import RUN_NAME_PATTERN, LocalFolder, RunName, Section
from configs.schema.train import PROMPT_METHODS, TrainConfig


class PhaseConfig(Section):
    """One training: its rows and its settings."""

    data: DataConfig = Field(description="The rows of this phase.")
    train: TrainConfig = Field(description="Objective, method and schedule of this phase.")


class AlignConfig(RunConfig):
    """SFT, then DPO or KTO; or SFT, a reward model, then RLOO or GRPO. All phases share the tokenizer and template."""

    name: RunName = Field(
        "align", pattern=RUN_NAME_PATTERN, description="Name of the run, of its report, and of its output folder."
    )
    model: ModelConfig = Field(description="The base model of the SFT phase.")
    sft: PhaseConfig = Field(description="The first phase; its model is the reference of the last phase.")
    reward: PhaseConfig | None = Field(None, description="A phase that trains a reward model from the SFT model.")
    policy: PhaseConfig = Field(description=f"The last phase, with the objective {either(objectives_of('policy'))}.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Scores on the held-out rows of the last phase.")
    quantize: QuantizeConfig = Field(QuantizeConfig(), description="Quantized copies of the last phase's model.")
    gate: GateConfig = Field(GateConfig(), description="What the last phase's model must show before it is published.")
    push_to_hub: PushConfig = Field(PushConfig(), description="Publication of the last phase's model on a hub.")
    tokenize: TokenizeConfig = Field(
        TokenizeConfig(),
        description="Chat template, sequence length and masks of all phases; only the first phase reads `packing`.",
    )
    plan: PlanConfig = Field(PlanConfig(), description="Further GPU types, and what to do if the plan does not fit.")
    output_directory: LocalFolder = Field(
        "outputs", description="Local folder for the folders of runs on a laptop: models, report, metrics."
    )
    output_exists: Literal["number", "replace", "stop"] = Field("number", description=OUTPUT_EXISTS)

    @model_validator(mode="after")
    def _phases_fit_together(self) -> AlignConfig:
        objective = self.policy.train.objective
        first, last = objectives_of("sft"), objectives_of("policy")
        if self.sft.train.objective not in first:
            raise ValueError(f"sft.train.objective={self.sft.train.objective}: the first phase must be {either(first)}")
        if self.reward is not None and self.reward.train.objective not in objectives_of("reward"):
            raise ValueError(
                f"reward.train.objective={self.reward.train.objective}: this phase trains a reward model; set it to "
                f"{either(objectives_of('reward'))}"
            )
        if objective not in last:
            raise ValueError(f"policy.train.objective={objective}: the last phase must be {either(last)}")
        if self.reward is not None and objective not in ONLINE:
            raise ValueError(
                f"reward is set, but policy.train.objective={objective} does not use a reward model; remove it"
            )
        if objective in ONLINE and self.reward is None and not self.policy.train.policy.rewards:
            raise ValueError(
                f"policy.train.objective={objective} needs a reward for its answers; add the phase `reward`, or set "
                "policy.train.policy.rewards"
            )
        for name, phase in (("sft", self.sft), ("reward", self.reward)):
            if phase is not None and phase.train.method in PROMPT_METHODS:
                raise ValueError(
                    f"{name}.train.method={phase.train.method} changes no weights, so the next phase would start from "
                    "the untrained model; use full or lora"
                )
        return self

    @model_validator(mode="after")
    def _phases_are_whole_configs(self) -> AlignConfig:
        for name in self.phases():
            try:
                self.phase(name)
            except ValidationError as error:
                raise ValueError(f"{name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        return self

    def phases(self) -> list[Phase]:
        """Return the names of the phases in their order."""
        return ["sft", *(["reward"] if self.reward is not None else []), "policy"]  # type: ignore[list-item]

    def phase(self, name: Phase) -> FineTuneConfig:
        """Return one phase as a config of its own.

        Only the first phase adds new tokens and may pack its rows; only the last is quantized and pushed.
        """
        phase = getattr(self, name)
        tokenize = self.tokenize
        if name != "sft":
            tokenize = tokenize.model_copy(update={"new_special_tokens": [], "packing": "none"})
        publication: dict[str, Any] = {"quantize": self.quantize.model_copy(update={"methods": []})}
        if name == "policy":
            publication = {"quantize": self.quantize, "gate": self.gate, "push_to_hub": self.push_to_hub}
        return FineTuneConfig(
            name=self.name,
            model=self.model,
            data=phase.data,
            tokenize=tokenize,
            train=phase.train,
            evaluate=self.evaluate,
            plan=self.plan,
            output_directory=self.output_directory,
            output_exists=self.output_exists,
            **publication,
        )

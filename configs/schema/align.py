"""A config of several trainings, each on the model of the one before: SFT, perhaps a reward model, then alignment."""

from __future__ import annotations

from pydantic import Field, ValidationError, model_validator

from configs.errors import either
from configs.objectives import ONLINE, Phase, objectives_of
from configs.schema import (
    EvaluateConfig,
    FineTuneConfig,
    ModelConfig,
    PushConfig,
    QuantizeConfig,
    RunConfig,
    TokenizeConfig,
)
from configs.schema.data import DataConfig
from configs.schema.plan import PlanConfig
from configs.schema.section import Section
from configs.schema.train import PROMPT_METHODS, TrainConfig


class StageConfig(Section):
    """One training: its rows and its settings."""

    data: DataConfig = Field(description="The rows of this stage.")
    train: TrainConfig = Field(description="Objective, method and schedule of this stage.")


class AlignConfig(RunConfig):
    """SFT, then DPO or KTO; or SFT, a reward model, then RLOO or GRPO. Tokens are made alike in all stages."""

    name: str = Field(
        "align", pattern=r"^[\w-][\w.-]*$", description="Names the run, its report, and its output folder."
    )
    model: ModelConfig = Field(description="The base model of the SFT stage.")
    tokenize: TokenizeConfig = Field(
        TokenizeConfig(), description="Template, lengths and masks of all stages; `packing` is of the first."
    )
    sft: StageConfig = Field(description="The first stage; its model is the reference of the last one.")
    reward: StageConfig | None = Field(None, description="A reward model, trained from the SFT model.")
    policy: StageConfig = Field(description=f"The last stage: objective {either(objectives_of('policy'))}.")
    evaluate: EvaluateConfig = Field(EvaluateConfig(), description="Scores on the held-out rows of the last stage.")
    quantize: QuantizeConfig = Field(QuantizeConfig(), description="Quantized copies of the last model.")
    push_to_hub: PushConfig = Field(PushConfig(), description="Publication of the last model.")
    plan: PlanConfig = Field(PlanConfig(), description="GPU types of your own, and what is done where none fits.")
    output_directory: str = Field("outputs", description="Folder for report and metrics of a run on a laptop.")

    @model_validator(mode="after")
    def _stages_fit_together(self) -> AlignConfig:
        objective = self.policy.train.objective
        first, last = objectives_of("sft"), objectives_of("policy")
        if self.sft.train.objective not in first:
            raise ValueError(f"sft.train.objective={self.sft.train.objective}: the first stage is {either(first)}")
        if self.reward is not None and self.reward.train.objective not in objectives_of("reward"):
            raise ValueError(f"reward.train.objective={self.reward.train.objective}: this stage trains a reward model")
        if objective not in last:
            raise ValueError(f"policy.train.objective={objective}: the last stage is {either(last)}")
        if self.reward is not None and objective not in ONLINE:
            raise ValueError(f"reward is set, but policy.train.objective={objective} learns from pairs; remove it")
        if objective in ONLINE and self.reward is None and not self.policy.train.policy.rewards:
            raise ValueError(
                f"policy.train.objective={objective} needs something that rewards answers: "
                "a stage `reward`, or policy.train.policy.rewards"
            )
        for name, stage in (("sft", self.sft), ("reward", self.reward)):
            if stage is not None and stage.train.method in PROMPT_METHODS:
                raise ValueError(
                    f"{name}.train.method={stage.train.method} changes no weights for the next stage to begin with; "
                    "use full or lora"
                )
        return self

    @model_validator(mode="after")
    def _stages_are_whole_configs(self) -> AlignConfig:
        for name in self.stages():
            try:
                self.stage(name)
            except ValidationError as error:
                raise ValueError(f"{name}: {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
        return self

    def stages(self) -> list[Phase]:
        """Return the names of the stages in their order."""
        return ["sft", *(["reward"] if self.reward is not None else []), "policy"]  # type: ignore[list-item]

    def stage(self, name: Phase) -> FineTuneConfig:
        """Return one stage as a config of its own.

        The first adds new tokens, and alone can pack its rows; quantized copies are made of the last.
        """
        chosen = getattr(self, name)
        later = {"new_special_tokens": [], "packing": "none"}
        tokenize = self.tokenize if name == "sft" else self.tokenize.model_copy(update=later)
        last = {"quantize": self.quantize, "push_to_hub": self.push_to_hub} if name == "policy" else {}
        return FineTuneConfig(
            name=self.name,
            model=self.model,
            data=chosen.data,
            tokenize=tokenize,
            train=chosen.train,
            evaluate=self.evaluate,
            plan=self.plan,
            output_directory=self.output_directory,
            **{"quantize": QuantizeConfig(methods=[]), **last},
        )

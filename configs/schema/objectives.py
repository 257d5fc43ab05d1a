"""What each objective reads of a config's train section: preferences, rewards, generated answers."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from configs.schema.section import Section


class DpoConfig(Section):
    """Direct preference optimization, Rafailov et al. 2023 (https://arxiv.org/abs/2305.18290), and its variants."""

    beta: float = Field(0.1, gt=0.0, description="Strength of the tie to the reference; the temperature of the reward.")
    loss: Literal[
        "sigmoid",
        "hinge",
        "ipo",
        "exo_pair",
        "nca_pair",
        "robust",
        "bco_pair",
        "sppo_hard",
        "aot",
        "aot_unpaired",
        "apo_zero",
        "apo_down",
        "discopop",
        "sigmoid_norm",
    ] = Field("sigmoid", description="`sigmoid` is the paper's; the others are those of TRL's documentation.")
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=0.5, description="Share of the preferences taken to be wrong (robust, exo_pair, aot)."
    )
    sft_weight: float = Field(
        0.0, ge=0.0, description="Weight of the negative log-likelihood of the chosen answer, added to the loss."
    )

    @model_validator(mode="after")
    def _smoothing_is_read(self) -> DpoConfig:
        readers = ("robust", "exo_pair", "aot", "aot_unpaired")
        if self.label_smoothing and self.loss not in readers:
            raise ValueError(f"label_smoothing is not read by loss={self.loss}; use one of {', '.join(readers)}")
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("loss=exo_pair needs label_smoothing above 0; its paper uses 0.001")
        return self


class KtoConfig(Section):
    """Kahneman-Tversky optimization, Ethayarajh et al. 2024 (https://arxiv.org/abs/2402.01306)."""

    beta: float = Field(0.1, gt=0.0, description="Strength of the tie to the reference.")
    loss: Literal["kto", "apo_zero_unpaired"] = Field(
        "kto", description="`apo_zero_unpaired` has no term of the KL divergence between policy and reference."
    )
    desirable_weight: float = Field(1.0, gt=0.0, description="Weight of wanted answers.")
    undesirable_weight: float = Field(1.0, gt=0.0, description="Weight of unwanted answers.")


class RewardModelConfig(Section):
    """A model that scores answers: Bradley-Terry, loss -log sigmoid(score(chosen) - score(rejected))."""

    center_coefficient: float | None = Field(
        None,
        gt=0.0,
        description="Weight of (score(chosen) + score(rejected))^2, Eisenstein et al. 2023: scores around 0; 0.01.",
    )


class RewardFunctionConfig(Section):
    """A reward computed from a generated answer, for tasks whose answers can be verified."""

    kind: Literal["exact_match", "regex", "python"] = Field(
        description="`exact_match`: 1 where the answer is the expected one; `regex`: 1 where `pattern` is found in the "
        "answer; `python`: what `function` returns."
    )
    pattern: str | None = Field(
        None,
        description="Regular expression. For exact_match, its first group is what is compared of answer and expected "
        "text: `#### (-?[0-9.,]+)` for GSM8K; the whole text when not set.",
    )
    function: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="`package.module:function` within the project, called with lists prompts, completions and "
        "expected, all text; returns one number for each.",
    )
    weight: float = Field(1.0, description="Rewards are added up with these weights.")

    @model_validator(mode="after")
    def _what_the_kind_reads(self) -> RewardFunctionConfig:
        if self.kind == "python" and (self.function is None or self.pattern is not None):
            raise ValueError("kind=python needs function, and reads no pattern")
        if self.kind != "python" and self.function is not None:
            raise ValueError(f"function is for kind=python, and kind is {self.kind}")
        if self.kind == "regex" and self.pattern is None:
            raise ValueError("kind=regex needs pattern")
        if self.pattern is not None:
            import re

            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"pattern={self.pattern!r} is no regular expression: {error}") from None
            if self.kind == "exact_match" and groups < 1:
                raise ValueError(f"pattern={self.pattern!r} has no group; put ( ) around the part to compare")
        return self


class PolicyConfig(Section):
    """Reinforcement learning: RLOO, Ahmadian et al. 2024 (https://arxiv.org/abs/2402.14740), or GRPO, Shao et al. 2024
    (https://arxiv.org/abs/2402.03300), with a KL penalty to the model that training began with."""

    rewards: list[RewardFunctionConfig] = Field([], description="What an answer is worth, beside a reward model.")
    kl_coefficient: float = Field(0.05, ge=0.0, description="Weight of the KL divergence from the reference.")
    num_generations: int = Field(4, ge=2, description="Answers to each prompt, compared with one another.")
    max_new_tokens: int = Field(256, ge=1, description="Longest generated answer in tokens.")
    temperature: float = Field(1.0, gt=0.0, description="Of the sampling of answers: higher is more varied.")
    top_p: float = Field(1.0, gt=0.0, le=1.0, description="Share of the probability sampled from.")
    num_iterations: int = Field(1, ge=1, description="Optimizer passes over each batch of answers.")

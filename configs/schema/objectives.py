"""The parts of the train section that only one objective reads: preferences, rewards, generated answers."""

from __future__ import annotations

from collections.abc import Collection
from typing import ClassVar, Literal

from pydantic import Field, model_validator

from configs.patterns import LIMIT_SECONDS, compiled
from configs.printable import one_line
from configs.schema.section import Section, cut


class DpoConfig(Section):
    """Direct preference optimization, Rafailov et al. 2023 (https://arxiv.org/abs/2305.18290), and its variants."""

    beta: float = Field(
        0.1, gt=0.0, description="Strength of the penalty that keeps the policy close to the reference model."
    )
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
    ] = Field("sigmoid", description="The loss: `sigmoid` is the paper's, TRL's documentation describes the others.")
    label_smoothing: float = Field(
        0.0, ge=0.0, lt=0.5, description="Share of the preferences assumed to be wrong (robust, exo_pair, aot)."
    )
    sft_weight: float = Field(
        0.0, ge=0.0, description="Weight of the chosen answer's negative log-likelihood, which is added to the loss."
    )

    @model_validator(mode="after")
    def _smoothing_is_read(self) -> DpoConfig:
        readers = ("robust", "exo_pair", "aot", "aot_unpaired")
        if self.label_smoothing and self.loss not in readers:
            raise ValueError(
                f"label_smoothing is not read by loss={self.loss}; remove it, or use one of {', '.join(readers)}"
            )
        if self.loss == "exo_pair" and not self.label_smoothing:
            raise ValueError("loss=exo_pair needs label_smoothing above 0; set it, for example, to the paper's 0.001")
        return self


class KtoConfig(Section):
    """Kahneman-Tversky optimization, Ethayarajh et al. 2024 (https://arxiv.org/abs/2402.01306)."""

    beta: float = Field(
        0.1, gt=0.0, description="Strength of the penalty that keeps the policy close to the reference model."
    )
    loss: Literal["kto", "apo_zero_unpaired"] = Field(
        "kto",
        description="The loss: `apo_zero_unpaired` leaves out the KL divergence between policy and reference.",
    )
    desirable_weight: float = Field(1.0, gt=0.0, description="Weight of wanted answers in the loss.")
    undesirable_weight: float = Field(1.0, gt=0.0, description="Weight of unwanted answers in the loss.")


class RewardModelConfig(Section):
    """A model that scores answers, trained by Bradley-Terry: loss -log sigmoid(score(chosen) - score(rejected))."""

    center_coefficient: float | None = Field(
        None,
        gt=0.0,
        description="Weight of (score(chosen) + score(rejected))^2, added to the loss to keep scores around 0, such as "
        "0.01 (Eisenstein et al. 2023); when not set, nothing is added.",
    )


class RewardFunctionConfig(Section):
    """A reward computed from a generated answer, for tasks whose answers can be verified."""

    free_texts: ClassVar[Collection[str]] = ("pattern",)

    kind: Literal["exact_match", "regex", "python"] = Field(
        description="`exact_match`: 1 if the answer equals the expected one, else 0; `regex`: 1 if `pattern` is found "
        "in the answer, else 0; `python`: the number that `function` returns."
    )
    pattern: str | None = Field(
        None,
        description=f"Regular expression, in Python's syntax; it may take {LIMIT_SECONDS:g} s on an answer. For "
        "exact_match, its first group is the part of answer and expected text to compare, such as `#### (-?[0-9.,]+)` "
        "for GSM8K; when not set, the whole texts are compared.",
    )
    function: str | None = Field(
        None,
        pattern=r"^[A-Za-z_][\w.]*:[A-Za-z_]\w*$",
        description="A function of the project, `package.module:function`. It is called with three lists of texts, "
        "prompts, completions and expected, and returns one number per completion.",
    )
    weight: float = Field(1.0, description="Weight of this reward in the sum of an answer's rewards.")

    @model_validator(mode="after")
    def _kind_reads_its_settings(self) -> RewardFunctionConfig:
        if self.kind == "python" and (self.function is None or self.pattern is not None):
            raise ValueError("kind=python needs function and reads no pattern; set function, and remove pattern")
        if self.kind != "python" and self.function is not None:
            raise ValueError(f"function is for kind=python, but kind is {self.kind}; remove function")
        if self.kind == "regex" and self.pattern is None:
            raise ValueError("kind=regex needs pattern; set it")
        if self.pattern is not None:
            try:
                groups = compiled(self.pattern).groups
            except ValueError as error:
                raise ValueError(f"pattern={cut(repr(self.pattern))} {one_line(error)}") from None
            if self.kind == "exact_match" and groups < 1:
                raise ValueError(f"pattern={cut(repr(self.pattern))} has no group; put ( ) around the part to compare")
        return self


class PolicyConfig(Section):
    """Reinforcement learning: RLOO, Ahmadian et al. 2024 (https://arxiv.org/abs/2402.14740), or GRPO, Shao et al. 2024
    (https://arxiv.org/abs/2402.03300). A KL penalty keeps the policy close to the model that training began with."""

    rewards: list[RewardFunctionConfig] = Field(
        [], description="Functions that reward an answer, in addition to a reward model if there is one."
    )
    kl_coefficient: float = Field(0.05, ge=0.0, description="Weight of the KL divergence from the reference model.")
    num_generations: int = Field(
        4, ge=2, description="Number of answers generated for each prompt and compared with one another."
    )
    max_new_tokens: int = Field(256, ge=1, description="Longest generated answer in tokens.")
    temperature: float = Field(1.0, gt=0.0, description="Sampling temperature of answers; higher is more varied.")
    top_p: float = Field(
        1.0,
        gt=0.0,
        le=1.0,
        description="Sample from the most probable tokens whose probabilities add up to this share; 1 samples from "
        "all.",
    )
    num_iterations: int = Field(1, ge=1, description="Number of times that each batch of answers is trained on.")

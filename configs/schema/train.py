"""The train section of a config: the objective (what the loss learns from), the method (which weights it trains), and
how training runs."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from configs.combinations import REFUSED, REFUSED_SHARDING
from configs.effective import batches
from configs.objectives import ONLINE, Objective, described_objectives
from configs.schema.cluster import (
    FSDP,
    MODEL_PARALLEL,
    CheckpointConfig,
    ClusterConfig,
    DeepSpeedConfig,
    FsdpConfig,
    Sharding,
    node_range,
)
from configs.schema.objectives import DpoConfig, KtoConfig, PolicyConfig, RewardFunctionConfig, RewardModelConfig
from configs.schema.section import Section
from configs.schema.tracking import TrackingConfig
from configs.schema.watch import WatchConfig

__all__ = ["RewardFunctionConfig"]

Method = Literal["full", "lora", "qlora", "lora_8bit", "prompt_tuning", "prefix_tuning"]

PROMPT_METHODS: tuple[Method, ...] = ("prompt_tuning", "prefix_tuning")
"""Methods that train virtual tokens, and no weight of the base model."""
_UNANSWERED: dict[Objective, str] = {
    "cpt": "its rows are plain texts, with no prompts to answer",
    "reward": "a reward model gives scores, and no answers",
}
"""Objectives without generated answers to held-out rows: the reason."""
_NO_WHOLE_WEIGHTS: tuple[Sharding, ...] = ("zero3", *FSDP, "tensor_parallel")
"""Values of `sharding` under which no process has the whole weights."""
_TRAINERS_OWN = frozenset(
    (
        *("loss", "runtime", "samples_per_second", "steps_per_second", "model_preparation_time", "num_tokens"),
        *("entropy", "mean_token_accuracy", "reward", "reward_std", "frac_reward_zero_std", "kl", "margin"),
        *("min_reward", "mean_reward", "max_reward", "aux_loss", "policy_loss", "cispo_clip_ratio", "step_time"),
    )
)
"""What the trainers log of held-out rows as `eval_<name>`."""
QUANTIZED_METHODS: tuple[Method, ...] = ("qlora", "lora_8bit")
"""Methods that train an adapter over a quantized base."""


class LoraConfig(Section):
    """Low-rank adapters, Hu et al. 2021 (https://arxiv.org/abs/2106.09685)."""

    rank: int = Field(
        16, ge=1, description="Rank of the weight update, which is the product of two matrices of this width."
    )
    alpha: int = Field(32, ge=1, description="Scale of the weight update, which is multiplied by alpha / rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Probability of dropout on the adapter's input.")
    target_modules: list[str] = Field(
        ["all-linear"],
        min_length=1,
        description="Linear layers that get an adapter, by the endings of their names; `all-linear` is all but the "
        "output head and the routers of experts, which are trained only by name.",
    )
    use_rslora: bool = Field(
        False,
        description="Scale the update by alpha / sqrt(rank), which suits high ranks, https://arxiv.org/abs/2312.03732.",
    )
    use_dora: bool = Field(
        False,
        description="Train magnitude and direction of a weight separately, Liu et al. 2024 "
        "(https://arxiv.org/abs/2402.09353); slower.",
    )


class PromptConfig(Section):
    """Virtual tokens before every sequence: prompt tuning (https://arxiv.org/abs/2104.08691) trains their embeddings,
    prefix tuning (https://arxiv.org/abs/2101.00190) their keys and values in every layer."""

    free_texts: ClassVar[Collection[str]] = ("init_text",)

    num_virtual_tokens: int = Field(
        20, ge=1, description="Number of virtual tokens; each takes one of the model's positions."
    )
    init_text: str | None = Field(
        None,
        description="Text whose embeddings prompt tuning starts from; when not set, those of random tokens of the "
        "vocabulary.",
    )


class EfficiencyConfig(Section):
    """Settings that save time or memory. A setting that the device does not support falls back, and the log and the
    report say so."""

    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto",
        description="Number format of the computation; `auto` is bfloat16 on a GPU that computes in it, else float32.",
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto",
        description="Recompute activations in the backward pass, which saves memory and costs time; `auto` does so on "
        "a GPU.",
    )
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "auto",
        description="`auto` and `adamw` are PyTorch's AdamW, fused where possible; the 8-bit optimizers (bitsandbytes) "
        "keep 2 bytes of state per parameter instead of 8.",
    )
    kernels: Literal["auto", "off"] = Field(
        "auto", description="`auto` uses Liger's fused norm, rotary and MLP kernels on a GPU, for models that it knows."
    )
    compile: bool = Field(
        False, description="Use torch.compile, which starts slowly and pays off in long runs over rows of like length."
    )
    activation_offload: bool = Field(
        False, description="Keep activations in host memory between the forward and the backward pass; GPU only."
    )


class TrainConfig(Section):
    """Fine-tuning: an objective, a method, a schedule, and processes on one or more machines."""

    objective: Objective = Field("sft", description=f"What is learned from. {described_objectives()}.")
    method: Method = Field(
        "lora",
        description="What is trained: all weights (full); a low-rank adapter over the base as it is (lora), in 4 bits "
        "(qlora) or in 8 bits (lora_8bit); or virtual tokens (prompt_tuning, prefix_tuning).",
    )
    epochs: float = Field(1.0, gt=0.0, description="Number of passes over the training rows.")
    learning_rate: float | None = Field(
        None, gt=0.0, description="Peak learning rate; when not set, chosen by objective and method (docs/methods.md)."
    )
    batch_size: int = Field(
        16,
        ge=1,
        description="Rows per optimizer step, over all processes; a pack of rows counts as one. For rloo and grpo, "
        "generated answers per optimizer step.",
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Rows per forward pass of a process; gradients are accumulated over forward passes up to "
        f"`batch_size`. When not set, the most that fit by the plan, at most {batches.MOST_ROWS}.",
    )
    max_steps: int | None = Field(None, ge=1, description="Number of optimizer steps; when set, `epochs` is not read.")
    nodes: int | str = Field(
        1,
        description="Number of machines, or a range such as `1:5`: an attempt can start with the lower number, and "
        "training resumes with the machines left after one is lost.",
    )
    processes_per_node: int = Field(1, ge=1, description="Number of worker processes on each machine, one per GPU.")
    sharding: Sharding = Field(
        "none",
        description="How the model is sharded: not at all (none, which is DDP), over processes by DeepSpeed (zero1-3) "
        "or PyTorch (fsdp_*), within each layer over processes (tensor_parallel), or by layers over the GPUs of one "
        "process (layers).",
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Course of the learning rate after warm-up."
    )
    warmup_fraction: float = Field(
        0.03, ge=0.0, lt=1.0, description="Share of the optimizer steps in which the learning rate rises linearly."
    )
    weight_decay: float = Field(0.0, ge=0.0, description="Decoupled weight decay of AdamW.")
    max_grad_norm: float = Field(
        1.0, gt=0.0, description="Largest global norm of the gradients; larger ones are clipped."
    )
    group_by_length: bool = Field(
        True, description="Batch rows of similar length, which saves padding; an epoch has the same rows either way."
    )
    logging_steps: int | None = Field(
        None, ge=1, description="Optimizer steps between points of the loss curve; when not set, 1/50 of the run."
    )
    seed: int = Field(0, description="Seed of data order, adapter initialization, dropout and sampling.")
    lora: LoraConfig = Field(LoraConfig(), description="Read when `method` is lora, qlora or lora_8bit.")
    prompt: PromptConfig = Field(PromptConfig(), description="Read when `method` is prompt_tuning or prefix_tuning.")
    dpo: DpoConfig = Field(DpoConfig(), description="Read when `objective` is dpo.")
    kto: KtoConfig = Field(KtoConfig(), description="Read when `objective` is kto.")
    reward: RewardModelConfig = Field(RewardModelConfig(), description="Read when `objective` is reward.")
    policy: PolicyConfig = Field(PolicyConfig(), description="Read when `objective` is rloo or grpo.")
    watch: WatchConfig = Field(WatchConfig(), description="What is measured during training, and what stops it early.")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="Checkpoints, from which a retry resumes.")
    efficiency: EfficiencyConfig = Field(EfficiencyConfig(), description="Settings that save time or memory.")
    deepspeed: DeepSpeedConfig = Field(DeepSpeedConfig(), description="Read when `sharding` is zero1, zero2 or zero3.")
    fsdp: FsdpConfig = Field(FsdpConfig(), description="Read when `sharding` is one of fsdp_*.")
    cluster: ClusterConfig = Field(ClusterConfig(), description="The training pods; changes no result.")
    tracking: TrackingConfig = Field(
        TrackingConfig(), description="W&B, MLflow or TensorBoard, to follow training; changes no result."
    )

    @model_validator(mode="after")
    def _objective_and_method_go_together(self) -> TrainConfig:
        reason = REFUSED.get((self.objective, self.method))
        if reason:
            raise ValueError(f"train.method={self.method} with train.objective={self.objective}: {reason}")
        return self

    @field_validator("nodes", mode="before")
    @classmethod
    def _a_number_or_a_range(cls, nodes: Any) -> Any:
        if isinstance(nodes, float) and nodes.is_integer():
            return int(nodes)
        # pydantic would give one error for each type; as text, `node_range` refuses it with one
        return nodes if isinstance(nodes, int | str) else str(nodes)

    @property
    def micro_batch(self) -> int:
        """Rows per forward pass of a process: as set by the user or by a plan, else the most, up to 8, that divide the
        batch."""
        if self.micro_batch_size is not None:
            return self.micro_batch_size
        return batches.default_micro_batch(self, self.most_nodes * self.processes_per_node)

    def divides_batch(self, rows: int) -> bool:
        """Return whether forward passes of `rows` rows make up the batch exactly, and are enough for the objective."""
        return batches.divides_batch(self, rows, self.most_nodes * self.processes_per_node)

    @model_validator(mode="after")
    def _nodes_are_a_range(self) -> TrainConfig:
        node_range(self.nodes)
        return self

    @property
    def fewest_nodes(self) -> int:
        """Number of machines with which an attempt can start."""
        return node_range(self.nodes)[0]

    @property
    def most_nodes(self) -> int:
        """Number of machines that an attempt asks for."""
        return node_range(self.nodes)[1]

    @model_validator(mode="after")
    def _sharding_suits_the_rest(self) -> TrainConfig:
        for subject in (self.method, self.objective):
            reason = REFUSED_SHARDING.get((subject, self.sharding))
            if reason:
                name = "method" if subject == self.method else "objective"
                raise ValueError(f"train.{name}={subject} cannot run under sharding={self.sharding}: {reason}")
        is_zero = self.sharding.startswith("zero")
        if self.deepspeed.offload != "none" and not is_zero:
            raise ValueError(
                f"train.deepspeed.offload={self.deepspeed.offload} needs DeepSpeed, but train.sharding is "
                f"{self.sharding}; set sharding to zero2 or zero3, or offload to none"
            )
        if self.deepspeed.offload == "optimizer_and_parameters" and self.sharding != "zero3":
            raise ValueError(
                "train.deepspeed.offload=optimizer_and_parameters needs sharding=zero3: other shardings keep all "
                f"parameters on each GPU, and train.sharding is {self.sharding}; use offload=optimizer"
            )
        if self.deepspeed.config is not None and not is_zero:
            raise ValueError(
                f"train.deepspeed.config is not read by train.sharding={self.sharding}; set sharding to the stage of "
                "that file (zero1, zero2 or zero3), or remove it"
            )
        if self.sharding in MODEL_PARALLEL and self.most_nodes > 1:
            raise ValueError(
                f"train.sharding={self.sharding} exchanges activations within or between layers, and must stay within "
                f"one machine; set train.nodes=1 (now {self.nodes})"
            )
        if self.sharding == "layers" and self.processes_per_node > 1:
            raise ValueError(
                "train.sharding=layers spreads the model over the GPUs of one process; set train.processes_per_node=1 "
                f"(now {self.processes_per_node}) and train.cluster.gpus_per_process to the number of GPUs"
            )
        if self.sharding != "layers" and self.cluster.gpus_per_process > 1:
            raise ValueError(
                f"train.cluster.gpus_per_process={self.cluster.gpus_per_process} is read by sharding=layers only; "
                "other shardings use one GPU per process: set it to 1, and raise train.processes_per_node"
            )
        return self

    @model_validator(mode="after")
    def _answers_can_be_measured(self) -> TrainConfig:
        if not self.watch.measures:
            return self
        fault = _UNANSWERED.get(self.objective)
        if fault:
            raise ValueError(
                f"train.watch.measures with train.objective={self.objective}: {fault}; remove the measures"
            )
        if self.sharding in _NO_WHOLE_WEIGHTS:
            raise ValueError(
                f"train.watch.measures with train.sharding={self.sharding}: a process has a part of each weight, and "
                "would wait for the others at every token of an answer; use none, zero1 or zero2, or remove the "
                "measures"
            )
        for measure in self.watch.measures:
            if measure.key in _TRAINERS_OWN:
                raise ValueError(
                    f"train.watch.measures: title={measure.key} is the trainer's own name for another quantity; choose "
                    "another title"
                )
        return self

    @model_validator(mode="after")
    def _dora_reads_its_base(self) -> TrainConfig:
        if self.method == "lora_8bit" and self.lora.use_dora:
            raise ValueError(
                "train.lora.use_dora does not work over 8-bit weights (train.method=lora_8bit); use qlora or lora"
            )
        return self

    @model_validator(mode="after")
    def _batches_suit_the_objective(self) -> TrainConfig:
        answers = self.policy.num_generations
        if self.objective in ONLINE and self.batch_size % answers:
            raise ValueError(
                f"train.batch_size={self.batch_size} counts generated answers, and must be a multiple of "
                f"policy.num_generations={answers}; set it to {max(1, round(self.batch_size / answers)) * answers}"
            )
        if self.micro_batch_size is not None and self.micro_batch_size < batches.fewest_rows(self):
            raise ValueError(
                "train.micro_batch_size=1: kto estimates the KL divergence from other rows of the same forward pass; "
                "set it to 2 or more, or kto.loss to apo_zero_unpaired"
            )
        return self

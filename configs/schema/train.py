"""The train section of a config: what is learned from (objective), what is trained (method), and how."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from configs.combinations import REFUSED, REFUSED_SHARDING
from configs.effective import batches
from configs.objectives import ONLINE, WHOLE_TEXT, Objective, described_objectives
from configs.schema.cluster import (
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

__all__ = ["ONLINE", "WHOLE_TEXT", "Objective", "RewardFunctionConfig"]

Method = Literal["full", "lora", "qlora", "lora_8bit", "prompt_tuning", "prefix_tuning"]

PROMPT_METHODS: tuple[Method, ...] = ("prompt_tuning", "prefix_tuning")
"""Methods that train virtual tokens, and no weight of the base."""
QUANTIZED_METHODS: tuple[Method, ...] = ("qlora", "lora_8bit")
"""Methods that train an adapter over a quantized base."""


class LoraConfig(Section):
    """Low-rank adapters, Hu et al. 2021 (https://arxiv.org/abs/2106.09685)."""

    rank: int = Field(16, ge=1, description="Rank r of the update, a product of two matrices of this width.")
    alpha: int = Field(32, ge=1, description="The update is scaled by alpha / rank.")
    dropout: float = Field(0.0, ge=0.0, lt=1.0, description="Dropout on the adapter's input.")
    target_modules: list[str] = Field(
        ["all-linear"], min_length=1, description="Suffixes of module names, or `all-linear` (all but the output head)."
    )
    use_rslora: bool = Field(
        False,
        description="Scale by alpha / sqrt(rank), https://arxiv.org/abs/2312.03732: for high ranks.",
    )
    use_dora: bool = Field(
        False,
        description="Train magnitude and direction apart, Liu et al. 2024 (https://arxiv.org/abs/2402.09353): slower.",
    )


class PromptConfig(Section):
    """Virtual tokens before every sequence: prompt tuning (https://arxiv.org/abs/2104.08691) trains their embeddings,
    prefix tuning (https://arxiv.org/abs/2101.00190) their keys and values in every layer."""

    num_virtual_tokens: int = Field(
        20, ge=1, description="Virtual tokens: they take the room of as many positions of the model."
    )
    init_text: str | None = Field(
        None, description="Text whose embeddings prompt tuning begins with; random ones of the vocabulary when not set."
    )


class WatchConfig(Section):
    """What is looked at while training runs, and what ends it early."""

    evaluations: int = Field(
        10, ge=0, description="Times the held-out loss (rloo, grpo: reward) is taken in training, evenly; 0 for never."
    )
    early_stopping: int | None = Field(
        None, ge=1, description="End after so many evaluations without a better one; not when not set."
    )
    keep: Literal["best", "last"] = Field(
        "best", description="Weights kept: of the lowest held-out loss (highest reward), or of the last step."
    )
    spike_threshold: float | None = Field(
        20.0,
        gt=0.0,
        description="Stop at a step whose loss is so many robust deviations above the median of the last 50; "
        "not when not set. A loss that is not a number always stops.",
    )

    @model_validator(mode="after")
    def _patience_can_run_out(self) -> WatchConfig:
        if self.early_stopping is not None and self.early_stopping >= self.evaluations:
            # the least patience is 1, and one evaluation cannot run out of it
            lower = "lower it, or " if self.evaluations > 1 else ""
            raise ValueError(
                f"early_stopping={self.early_stopping} never ends a run of evaluations={self.evaluations}; "
                f"{lower}set train.watch.evaluations above it"
            )
        return self


class EfficiencyConfig(Section):
    """What saves time or memory. What a device does not have falls back, with a line in the log and in the report."""

    precision: Literal["auto", "bfloat16", "float32"] = Field(
        "auto", description="Number format of the computation; `auto` is bfloat16 on a GPU that has it, else float32."
    )
    gradient_checkpointing: Literal["auto", "on", "off"] = Field(
        "auto", description="Recompute activations in the backward pass; `auto` is on on a GPU."
    )
    optimizer: Literal["auto", "adamw", "adamw_8bit", "paged_adamw_8bit"] = Field(
        "auto", description="`auto` is PyTorch's fused AdamW; 8-bit ones (bitsandbytes) keep states in 2 bytes, not 8."
    )
    kernels: Literal["auto", "off"] = Field(
        "auto", description="Liger's fused norm, rotary and MLP kernels, where there is a GPU and the model has them."
    )
    compile: bool = Field(False, description="torch.compile; worth its wait for long runs of rows of like length.")
    activation_offload: bool = Field(False, description="Keep activations in host memory between the passes (GPU).")


class TrainConfig(Section):
    """Fine-tuning: an objective, a method, a schedule and a topology."""

    objective: Objective = Field("sft", description=f"{described_objectives()}.")
    method: Method = Field(
        "lora",
        description="All weights; a low-rank adapter, over the base as it is (lora), in 4 bits (qlora) or in 8 bits "
        "(lora_8bit); or virtual tokens (prompt_tuning, prefix_tuning).",
    )
    lora: LoraConfig = Field(LoraConfig(), description="Read when `method` is lora, qlora or lora_8bit.")
    prompt: PromptConfig = Field(PromptConfig(), description="Read when `method` is prompt_tuning or prefix_tuning.")
    dpo: DpoConfig = Field(DpoConfig(), description="Read when `objective` is dpo.")
    kto: KtoConfig = Field(KtoConfig(), description="Read when `objective` is kto.")
    reward: RewardModelConfig = Field(RewardModelConfig(), description="Read when `objective` is reward.")
    policy: PolicyConfig = Field(PolicyConfig(), description="Read when `objective` is rloo or grpo.")
    epochs: float = Field(1.0, gt=0.0, description="Passes over the training rows.")
    max_steps: int | None = Field(None, ge=1, description="Optimizer steps; when set, `epochs` is not read.")
    batch_size: int = Field(
        16,
        ge=1,
        description="Rows per optimizer step, over all processes; packed rows hold several each; for rloo and grpo, "
        "generated answers.",
    )
    micro_batch_size: int | None = Field(
        None,
        ge=1,
        description="Rows per forward pass and process; accumulation makes up the rest. When not set, the most that "
        f"fit by the plan, at most {batches.MOST_ROWS}.",
    )
    learning_rate: float | None = Field(
        None, gt=0.0, description="Peak learning rate; when not set, by objective and method (docs/methods.md)."
    )
    lr_scheduler: Literal["cosine", "linear", "constant"] = Field(
        "cosine", description="Shape of the learning rate after warm-up."
    )
    warmup_fraction: float = Field(0.03, ge=0.0, lt=1.0, description="Share of the steps spent in linear warm-up.")
    weight_decay: float = Field(0.0, ge=0.0, description="Decoupled weight decay of AdamW.")
    max_grad_norm: float = Field(1.0, gt=0.0, description="Gradients are clipped to this global norm.")
    group_by_length: bool = Field(True, description="Batch rows of like length: less padding, same rows per epoch.")
    efficiency: EfficiencyConfig = Field(EfficiencyConfig(), description="Time and memory.")
    watch: WatchConfig = Field(WatchConfig(), description="Held-out loss during training, and what stops a run.")
    sharding: Sharding = Field(
        "none",
        description="How the model is divided among processes: not at all (none: DDP), by DeepSpeed (zero1-3), by "
        "PyTorch (fsdp_*), within its layers (tensor_parallel), or by layers over the GPUs of one process (layers).",
    )
    deepspeed: DeepSpeedConfig = Field(DeepSpeedConfig(), description="Read when `sharding` is zero1, zero2 or zero3.")
    fsdp: FsdpConfig = Field(FsdpConfig(), description="Read when `sharding` is one of fsdp_*.")
    nodes: int | str = Field(
        1, description="Machines: a number, or a range such as `1:5` with which training begins and goes on."
    )
    processes_per_node: int = Field(1, ge=1, description="Worker processes on each machine: one per GPU.")
    checkpoint: CheckpointConfig = Field(CheckpointConfig(), description="What a retry resumes from.")
    cluster: ClusterConfig = Field(ClusterConfig(), description="The training pods; changes no result.")
    tracking: TrackingConfig = Field(
        TrackingConfig(), description="W&B, MLflow or TensorBoard, to follow training; changes no result."
    )
    logging_steps: int | None = Field(
        None, ge=1, description="Optimizer steps between points of the loss curve; when not set, 1/50 of the run."
    )
    seed: int = Field(0, description="Seed of data order, adapter initialisation, dropout and sampling.")

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
        # one error for both types, where pydantic would give two: `node_range` refuses what is neither
        return nodes if isinstance(nodes, int | str) else str(nodes)

    @property
    def micro_batch(self) -> int:
        """Rows per forward pass and process: as set, by the user or by a plan; else the most, up to 8, that divide."""
        if self.micro_batch_size is not None:
            return self.micro_batch_size
        return batches.default_micro_batch(self, self.most_nodes * self.processes_per_node)

    def divides_batch(self, rows: int) -> bool:
        """Return whether passes of so many rows make up the batch on all machines, and are enough for the objective."""
        return batches.divides_batch(self, rows, self.most_nodes * self.processes_per_node)

    @model_validator(mode="after")
    def _nodes_are_a_range(self) -> TrainConfig:
        node_range(self.nodes)
        return self

    @property
    def fewest_nodes(self) -> int:
        """Machines with which training may begin."""
        return node_range(self.nodes)[0]

    @property
    def most_nodes(self) -> int:
        """Machines that training asks for."""
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
                f"train.deepspeed.offload={self.deepspeed.offload} is DeepSpeed's, and train.sharding is "
                f"{self.sharding}; set sharding to zero2 or zero3, or offload to none"
            )
        if self.deepspeed.offload == "optimizer_and_parameters" and self.sharding != "zero3":
            raise ValueError(
                "train.deepspeed.offload=optimizer_and_parameters needs sharding=zero3: the others keep whole "
                f"parameters on each GPU, and train.sharding is {self.sharding}; use offload=optimizer"
            )
        if self.deepspeed.config is not None and not is_zero:
            raise ValueError(
                f"train.deepspeed.config is not read by train.sharding={self.sharding}; set sharding to the stage of "
                "that file (zero1, zero2 or zero3), or remove it"
            )
        if self.sharding in MODEL_PARALLEL and self.most_nodes > 1:
            raise ValueError(
                f"train.sharding={self.sharding} exchanges activations within each layer or between layers, and stays "
                f"within one machine; set train.nodes=1 (now {self.nodes})"
            )
        if self.sharding == "layers" and self.processes_per_node > 1:
            raise ValueError(
                "train.sharding=layers lays the model over the GPUs of one process; set train.processes_per_node=1 "
                f"(now {self.processes_per_node}) and train.cluster.gpus_per_process to their number"
            )
        if self.sharding != "layers" and self.cluster.gpus_per_process > 1:
            raise ValueError(
                f"train.cluster.gpus_per_process={self.cluster.gpus_per_process} is read by sharding=layers only; "
                "other shardings use one GPU in each process: raise train.processes_per_node"
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
                f"train.batch_size={self.batch_size} counts generated answers, and is not a multiple of "
                f"policy.num_generations={answers}; set it to {max(1, round(self.batch_size / answers)) * answers}"
            )
        if self.micro_batch_size is not None and self.micro_batch_size < batches.fewest_rows(self):
            raise ValueError(
                "train.micro_batch_size=1: kto estimates the KL divergence from other rows of the same pass; "
                "set it to 2 or more, or kto.loss to apo_zero_unpaired"
            )
        return self

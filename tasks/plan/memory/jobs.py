"""The settings of a config on which memory, traffic and time depend: the input of every estimate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.effective.numbers import NumberFormat, Precision
from configs.effective.training import Optimizer
from configs.objectives import OBJECTIVES, ONLINE, SCORING, Objective
from configs.schema.cluster import MODEL_PARALLEL, Sharding
from configs.schema.train import PROMPT_METHODS, Method
from tasks.plan.shapes.shape import ModelShape

Offload = Literal["none", "optimizer", "optimizer_and_parameters"]
Device = Literal["cuda", "cpu"]


@dataclass(frozen=True)
class TrainingJob:
    """The effective settings on which memory, traffic and time of training depend.

    `precision` is bfloat16 if layers compute under autocast, or under DeepSpeed's or FSDP's cast; otherwise layers
    compute in the format of the weights. `weights` is the format in which the base is loaded; None means float32 if all
    weights are trained or the precision is float32, else bfloat16.
    `micro_batch` is the largest number of rows in a forward pass, and `accumulation` the micro-batches per optimizer
    step. `length` is the tokens per row: prompt, answer (rloo and grpo: the prompt only) and virtual tokens.
    `has_padding`: the sequences of a micro-batch differ in length, so attention gets a mask. `has_scores`: attention is
    eager, and keeps a score for each pair of positions. With `tensor_parallel` and `layers` all GPUs work on the same
    rows.
    `has_reference`: the objective compares with the model that training began with. Only rloo and grpo read
    `num_generations` and `max_new_tokens`.
    `reduces_each_micro_batch` is accelerate's `sync_each_batch`, which training sets for fsdp_*: without it a GPU keeps
    unsharded gradients between micro-batches. `reduce_bucket` is DeepSpeed's reduce_bucket_size, in numbers; the
    default is that of configs/deepspeed. On `device` cpu the loss has no fused kernel.
    """

    shape: ModelShape
    sharding: Sharding = "none"
    method: Method = "full"
    offload: Offload = "none"
    precision: Precision = "bfloat16"
    weights: NumberFormat | None = None
    optimizer: Optimizer = "adamw"
    lora_rank: int = 16
    num_virtual_tokens: int = 20
    micro_batch: int = 1
    length: int = 4096
    accumulation: int = 1
    reduces_each_micro_batch: bool = True
    has_checkpointing: bool = True
    num_gpus: int = 1
    gpus_per_node: int = 8
    objective: Objective = "sft"
    lora_targets: tuple[str, ...] = ("all-linear",)
    has_reference: bool = False
    num_generations: int = 4
    max_new_tokens: int = 256
    has_padding: bool = False
    has_scores: bool = False
    reduce_bucket: int = 200_000_000
    device: Device = "cuda"

    @property
    def base_bits(self) -> Literal[16, 32]:
        """Bits per weight of the base as loaded, before it is quantized or cast."""
        if self.weights is not None:
            return 32 if self.weights == "float32" else 16
        return 32 if self.method == "full" or self.precision == "float32" else 16

    @property
    def tokens(self) -> int:
        """Tokens of one micro-batch on one GPU."""
        return self.micro_batch * self.length

    @property
    def num_sequences(self) -> int:
        """Sequences in one micro-batch: each answer of a pair is a sequence."""
        return self.micro_batch * (2 if OBJECTIVES[self.objective].needs_pairs else 1)

    @property
    def key_length(self) -> int:
        """Positions that a sequence attends to, including its generated answer and a prefix."""
        return self.length + (self.max_new_tokens if self.objective in ONLINE else 0)

    @property
    def sequence_tokens(self) -> int:
        """Tokens in one forward pass. A prefix is not among them: it has keys and values only."""
        prefix = self.num_virtual_tokens if self.method == "prefix_tuning" else 0
        return self.num_sequences * (self.key_length - prefix)

    @property
    def predicted_tokens(self) -> int:
        """Largest number of tokens in a micro-batch's loss: the first of each sequence is not predicted."""
        return self.sequence_tokens - self.num_sequences

    @property
    def model_parameters(self) -> int:
        """Parameters of the base as this objective loads it: a reward model has no output head."""
        shape = self.shape
        has_no_head = self.objective in SCORING and not shape.is_tied
        return shape.parameters - (shape.embedding_parameters if has_no_head else 0)

    @property
    def num_nodes(self) -> int:
        """Machines, the last of which may be partly used."""
        return -(-self.num_gpus // self.gpus_per_node)

    @property
    def step_tokens(self) -> int:
        """Tokens in one optimizer step, over all GPUs."""
        replicas = 1 if self.sharding in MODEL_PARALLEL else self.num_gpus
        return self.tokens * self.accumulation * replicas

    @property
    def trained_parameters(self) -> int:
        """Trained parameters: all, those of an adapter on the targeted linear maps, or virtual tokens."""
        shape = self.shape
        if self.method == "full":
            return self.model_parameters
        if self.method in PROMPT_METHODS:
            width = shape.hidden if self.method == "prompt_tuning" else 2 * shape.layers * shape.key_value_width
            return self.num_virtual_tokens * width
        targets = shape.targeted(self.lora_targets)
        return self.lora_rank * sum(target.count * (target.inputs + target.outputs) for target in targets)


@dataclass(frozen=True)
class EvaluationJob:
    """The settings on which the memory of the evaluate task depends: one tuned model, in the type as loaded.

    `length` is the tokens of the longest row; `new_tokens` those of the longest generated answer, 0 if none is
    generated; `prompt_length` those of the longest prompt for generation, by default `length`. `loss_length` is the
    tokens of the longest sequence whose log-probabilities are measured, by default `length`, 0 if there is none.
    `has_scores`: attention is eager. `linear_bits` are those of the weights of linear layers that
    bitsandbytes quantized, None where it quantized none. The layers are divided over `gpus`.
    """

    shape: ModelShape
    batch_size: int = 32
    length: int = 2048
    new_tokens: int = 512
    precision: NumberFormat = "bfloat16"
    prompt_length: int | None = None
    loss_length: int | None = None
    has_scores: bool = False
    linear_bits: Literal[4, 8] | None = None
    gpus: int = 1

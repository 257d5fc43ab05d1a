"""What of a config decides memory, traffic and time: the input of every estimate."""

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
    """The settings of a config that decide memory, traffic and time, as they are in effect.

    `precision` is bfloat16 where layers compute under autocast, or DeepSpeed or FSDP casts; else they compute in the
    format of the weights. `weights` is the format in which the base is loaded; when not given, float32 where all
    weights are trained or the precision is float32, else bfloat16.
    `micro_batch` is the most rows of a pass, and `accumulation` the passes of an optimizer step. `length` is the tokens
    of a row: prompt and answer (rloo and grpo: the prompt alone) and virtual tokens. `has_padding`: sequences of a pass
    are of unlike length, so that attention gets a mask. Under `tensor_parallel` and `layers` all GPUs work on the same
    rows.
    `has_reference`: the objective compares with the model that training began with. `num_generations` and
    `max_new_tokens` are read by rloo and grpo.
    `reduces_each_pass` is accelerate's `sync_each_batch`, which training sets for fsdp_*: without it a GPU keeps whole
    gradients from pass to pass. `reduce_bucket` is DeepSpeed's reduce_bucket_size, in numbers; the default is that of
    configs/deepspeed. On a `cpu` the loss has no kernel of its own.
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
    reduces_each_pass: bool = True
    has_checkpointing: bool = True
    num_gpus: int = 1
    gpus_per_node: int = 8
    objective: Objective = "sft"
    lora_targets: tuple[str, ...] = ("all-linear",)
    has_reference: bool = False
    num_generations: int = 4
    max_new_tokens: int = 256
    has_padding: bool = False
    reduce_bucket: int = 200_000_000
    device: Device = "cuda"

    @property
    def base_bits(self) -> Literal[16, 32]:
        """Bits of a number of the base as it is loaded, before anything is quantized or cast."""
        if self.weights is not None:
            return 32 if self.weights == "float32" else 16
        return 32 if self.method == "full" or self.precision == "float32" else 16

    @property
    def tokens(self) -> int:
        """Tokens of one pass of one GPU."""
        return self.micro_batch * self.length

    @property
    def num_sequences(self) -> int:
        """Sequences of one pass: both answers of a pair are one each."""
        return self.micro_batch * (2 if OBJECTIVES[self.objective].needs_pairs else 1)

    @property
    def key_length(self) -> int:
        """Positions that a sequence attends to: with its generated answer, and with a prefix."""
        return self.length + (self.max_new_tokens if self.objective in ONLINE else 0)

    @property
    def sequence_tokens(self) -> int:
        """Tokens that pass through the layers at once. A prefix has keys and values, and does not."""
        prefix = self.num_virtual_tokens if self.method == "prefix_tuning" else 0
        return self.num_sequences * (self.key_length - prefix)

    @property
    def predicted_tokens(self) -> int:
        """Tokens of a pass that the loss is taken of, at most: nothing predicts the first of a sequence."""
        return self.sequence_tokens - self.num_sequences

    @property
    def model_parameters(self) -> int:
        """Parameters of the base as this objective loads it: a reward model has no output head."""
        shape = self.shape
        has_no_head = self.objective in SCORING and not shape.is_tied
        return shape.parameters - (shape.embedding_parameters if has_no_head else 0)

    @property
    def num_nodes(self) -> int:
        """Machines, the last one perhaps not full."""
        return -(-self.num_gpus // self.gpus_per_node)

    @property
    def step_tokens(self) -> int:
        """Tokens of one optimizer step over all GPUs."""
        replicas = 1 if self.sharding in MODEL_PARALLEL else self.num_gpus
        return self.tokens * self.accumulation * replicas

    @property
    def trained_parameters(self) -> int:
        """Parameters that are trained: all, an adapter on every linear map of the layers, or virtual tokens."""
        shape = self.shape
        if self.method == "full":
            return self.model_parameters
        if self.method in PROMPT_METHODS:
            width = shape.hidden if self.method == "prompt_tuning" else 2 * shape.layers * shape.key_value_width
            return self.num_virtual_tokens * width
        targets = shape.targeted(self.lora_targets)
        return self.lora_rank * sum(each.count * (each.inputs + each.outputs) for each in targets)


@dataclass(frozen=True)
class EvaluationJob:
    """What decides the memory of the evaluate task: the tuned model alone on one GPU, in the type it is loaded in.

    `length` is tokens of the longest row, `new_tokens` of the longest answer generated, 0 for none; `prompt_length` of
    the longest prompt that one is generated to, by default as long as a row.
    """

    shape: ModelShape
    batch_size: int = 32
    length: int = 2048
    new_tokens: int = 512
    precision: NumberFormat = "bfloat16"
    prompt_length: int | None = None

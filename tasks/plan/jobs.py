"""How a model is trained on how many GPUs: the settings of a config that decide memory, traffic and time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.schema_cluster import MODEL_PARALLEL, Sharding
from configs.schema_train import PROMPT_METHODS, Method
from tasks.plan.shapes import ModelShape

Offload = Literal["none", "optimizer", "optimizer_and_parameters"]


@dataclass(frozen=True)
class TrainingJob:
    """The settings of a config that decide memory, traffic and time, in the config's own words.

    `length` is tokens in each row of a pass; `accumulation` is passes for each optimizer step. `precision` is that of
    the computation. `reduces_each_pass` is accelerate's `sync_each_batch`, which training sets for fsdp_*: without it a
    GPU keeps whole gradients from pass to pass. Under `tensor_parallel` and `layers` all GPUs work on the same rows.
    """

    shape: ModelShape
    sharding: Sharding = "none"
    method: Method = "full"
    offload: Offload = "none"
    precision: Literal["bfloat16", "float32"] = "bfloat16"
    optimizer: Literal["adamw", "adamw_8bit", "paged_adamw_8bit"] = "adamw"
    lora_rank: int = 16
    num_virtual_tokens: int = 20
    micro_batch: int = 1
    length: int = 4096
    accumulation: int = 1
    reduces_each_pass: bool = True
    has_checkpointing: bool = True
    num_gpus: int = 1
    gpus_per_node: int = 8

    @property
    def tokens(self) -> int:
        """Tokens of one pass of one GPU."""
        return self.micro_batch * self.length

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
            return shape.parameters
        if self.method in PROMPT_METHODS:
            width = shape.hidden if self.method == "prompt_tuning" else 2 * shape.layers * shape.key_value_width
            return self.num_virtual_tokens * width
        return self.lora_rank * shape.layers * sum(inputs + outputs for inputs, outputs in shape.linear_sizes)

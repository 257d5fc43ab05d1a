"""What every estimate of memory, traffic and time reads: the shape of a model, and how it is trained on how many GPUs.

Pure arithmetic without torch, so that a plan is made before anything is loaded.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.schema_cluster import MODEL_PARALLEL, Sharding
from configs.schema_train import PROMPT_METHODS, Method

Offload = Literal["none", "optimizer", "optimizer_and_parameters"]


@dataclass(frozen=True)
class ModelShape:
    """A Llama: RMS norms, gated MLP without biases, grouped queries, rotary positions.

    `hidden` is the width of a token; `key_value_heads` of `heads` hold keys and values; `is_tied`: the output head is
    the embedding.
    """

    name: str
    hidden: int
    layers: int
    heads: int
    key_value_heads: int
    intermediate: int
    vocabulary: int
    is_tied: bool = False

    @property
    def key_value_width(self) -> int:
        """Width of the keys, and of the values, of a token."""
        return self.hidden // self.heads * self.key_value_heads

    @property
    def linear_sizes(self) -> list[tuple[int, int]]:
        """Inputs and outputs of the linear maps of one layer: q, k, v, o, gate, up, down."""
        h, kv, i = self.hidden, self.key_value_width, self.intermediate
        return [(h, h), (h, kv), (h, kv), (h, h), (h, i), (h, i), (i, h)]

    @property
    def linear_parameters(self) -> int:
        """Parameters of the linear maps of all layers, without the output head."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linear_sizes)

    @property
    def layer_parameters(self) -> int:
        """Parameters of one layer: its linear maps and two norms."""
        return self.linear_parameters // self.layers + 2 * self.hidden

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the embedding; of the output head too, where it is another matrix."""
        return self.vocabulary * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters; a tied head counts once."""
        tables = 1 if self.is_tied else 2
        return self.layers * self.layer_parameters + tables * self.embedding_parameters + self.hidden


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


LLAMA_2_7B = ModelShape("Llama-2-7B", 4096, 32, 32, 32, 11008, 32000)
LLAMA_2_13B = ModelShape("Llama-2-13B", 5120, 40, 40, 40, 13824, 32000)
LLAMA_2_70B = ModelShape("Llama-2-70B", 8192, 80, 64, 8, 28672, 32000)
LLAMA_3_8B = ModelShape("Llama-3.1-8B", 4096, 32, 32, 8, 14336, 128256)
LLAMA_3_70B = ModelShape("Llama-3.1-70B", 8192, 80, 64, 8, 28672, 128256)
LLAMA_3_405B = ModelShape("Llama-3.1-405B", 16384, 126, 128, 8, 53248, 128256)

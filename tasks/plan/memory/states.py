"""Counts the bytes that training keeps from step to step: weights, gradients and optimizer, as each library has them.

The states are those of ZeRO, Rajbhandari et al. 2020 (https://arxiv.org/abs/1910.02054). The bytes per parameter are
those of the libraries used here, which sometimes differ from the paper:

PyTorch (none, fsdp_*, tensor_parallel)   4 weights + 4 gradients + 8 moments, all in 32 bits; autocast or FSDP's cast
                                          makes temporary 16-bit copies to compute with
PyTorch, weights loaded in 16 bits        2 weights + 2 gradients + 4 moments: nothing is in 32 bits
DeepSpeed (zero1-3) in bfloat16           2 weights + 2 gradients + 12: 32-bit weights and moments
DeepSpeed in float32                      4 weights + 4 gradients + 12: the 32-bit weights are stored twice
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from configs.schema.cluster import DEEPSPEED, FSDP, Sharding
from configs.schema.train import QUANTIZED_METHODS
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.shapes.shape import ModelShape


@dataclass(frozen=True)
class BytesPerParameter:
    """Bytes in each role: per trained parameter before sharding, or of many parameters on one GPU."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """Bytes in all roles together."""
        return self.weights + self.gradients + self.optimizer


PYTORCH = BytesPerParameter(4, 4, 8)
PYTORCH_16_BIT = BytesPerParameter(2, 2, 4)
DEEPSPEED_16_BIT = BytesPerParameter(2, 2, 12)
DEEPSPEED_32_BIT = BytesPerParameter(4, 4, 12)
_EIGHT_BIT_MOMENTS = 2
# NF4: blocks of 64 have an 8-bit scale, and 256 scales share a 32-bit one: https://arxiv.org/abs/2305.14314
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


def shard_counts(sharding: Sharding, num_gpus: int, gpus_per_node: int = 8) -> tuple[int, int, int]:
    """Return over how many GPUs the weights, the gradients and the optimizer states are sharded."""
    if sharding == "zero1":
        return 1, 1, num_gpus
    if sharding == "zero2":
        return 1, num_gpus, num_gpus
    if sharding == "fsdp_hybrid_shard":
        node_gpus = min(num_gpus, gpus_per_node)
        return node_gpus, node_gpus, node_gpus
    if sharding in ("none", "fsdp_no_shard"):
        return 1, 1, 1
    return num_gpus, num_gpus, num_gpus


def sharded_states(
    parameters: float, per_parameter: BytesPerParameter, sharding: Sharding, num_gpus: int, gpus_per_node: int = 8
) -> BytesPerParameter:
    """Return the bytes per GPU of `parameters` trained parameters: Table 1 of https://arxiv.org/abs/1910.02054."""
    weight_shards, gradient_shards, optimizer_shards = shard_counts(sharding, num_gpus, gpus_per_node)
    return BytesPerParameter(
        parameters * per_parameter.weights / weight_shards,
        parameters * per_parameter.gradients / gradient_shards,
        parameters * per_parameter.optimizer / optimizer_shards,
    )


def bytes_per_trained(job: TrainingJob) -> BytesPerParameter:
    """Return the bytes per trained parameter with the job's library, precision and optimizer."""
    # adapters and virtual tokens are trained in 32 bits, whatever the base is loaded in
    per_parameter = PYTORCH_16_BIT if job.method == "full" and job.base_bits == 16 else PYTORCH
    moments = per_parameter.optimizer
    if job.sharding in DEEPSPEED:
        per_parameter = DEEPSPEED_16_BIT if job.precision == "bfloat16" else DEEPSPEED_32_BIT
        moments = PYTORCH.optimizer
    if job.optimizer == "adamw":
        return per_parameter
    return replace(per_parameter, optimizer=per_parameter.optimizer - moments + _EIGHT_BIT_MOMENTS)


def frozen_weight_bytes(job: TrainingJob) -> float:
    """Return the bytes of the frozen base under an adapter or virtual tokens, before sharding; 0 for `full`."""
    if job.method == "full":
        return 0.0
    is_cast = job.sharding in DEEPSPEED and job.precision == "bfloat16"
    weight_bytes, parameters = 2 if is_cast else job.base_bits // 8, job.model_parameters
    if job.method not in QUANTIZED_METHODS:
        return weight_bytes * parameters
    linear = job.shape.quantized_parameters
    quantized = quantized_bytes(job.shape, 4 if job.method == "qlora" else 8)
    return quantized + weight_bytes * (parameters - linear)


def quantized_bytes(shape: ModelShape, bits: Literal[4, 8]) -> float:
    """Return the bytes of the weights that bitsandbytes quantizes: in NF4 with double quantization, or LLM.int8()."""
    linear = shape.quantized_parameters
    if bits == 4:
        return NF4_BYTES * linear
    # one byte per weight, and a 32-bit scale per output
    return linear + 4.0 * sum(one.count * one.outputs for one in shape.linear_maps if one.is_module)


def compute_bytes(job: TrainingJob) -> int:
    """Return the bytes of one number in the format that layers compute in."""
    return 2 if job.precision == "bfloat16" or weight_bits(job) == 16 else 4


def weight_bits(job: TrainingJob) -> Literal[16, 32]:
    """Return the bits of the layers' weights in the forward pass, before any autocast; activations between layers have
    as many."""
    is_cast = job.precision == "bfloat16" and job.sharding in (*DEEPSPEED, *FSDP)
    return 16 if is_cast else job.base_bits


def hidden_bytes(job: TrainingJob) -> int:
    """Return the bytes of one number in the last hidden states, and in the loss computed from them.

    Under FSDP every wrapped module returns float32, and nothing casts the loss: FSDP does the mixed precision, not
    autocast.
    """
    if job.sharding in FSDP and job.precision == "bfloat16":
        return 4
    return compute_bytes(job)


def states_of(job: TrainingJob) -> BytesPerParameter:
    """Return the bytes per GPU once all gradients exist, without offload, with a frozen base but no reference."""
    trained = sharded_states(
        job.trained_parameters, bytes_per_trained(job), job.sharding, job.num_gpus, job.gpus_per_node
    )
    weights = (
        trained.weights + frozen_weight_bytes(job) / shard_counts(job.sharding, job.num_gpus, job.gpus_per_node)[0]
    )
    if job.sharding != "tensor_parallel":
        return BytesPerParameter(weights, trained.gradients, trained.optimizer)
    share = job.num_gpus * _tensor_parallel_share(job)
    return BytesPerParameter(weights * share, trained.gradients * share, trained.optimizer * share)


def reference_bytes(job: TrainingJob) -> float:
    """Return the bytes per GPU of a separate copy of the model that training began with.

    An adapter needs no copy: its reference is the base with the adapter switched off. DeepSpeed shards the copy in
    stage 3 only, FSDP as it shards the trained model.
    """
    if not job.has_reference or job.method != "full":
        return 0.0
    weight_bytes = bytes_per_trained(job).weights
    return weight_bytes * job.model_parameters / shard_counts(job.sharding, job.num_gpus, job.gpus_per_node)[0]


def _tensor_parallel_share(job: TrainingJob) -> float:
    """Return the share of the parameters on each GPU: linear maps and head are sharded, norms and an untied embedding
    are replicated."""
    shape = job.shape
    sharded = shape.linear_parameters + shape.embedding_parameters
    return (sharded / job.num_gpus + shape.parameters - sharded) / shape.parameters

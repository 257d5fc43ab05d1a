"""What a model holds from step to step while it trains: weights, gradients and optimizer, in the bytes of each library.

States follow ZeRO, Rajbhandari et al. 2020 (https://arxiv.org/abs/1910.02054), with the bytes that the libraries here
hold, which are not always those of the paper:

PyTorch (none, fsdp_*, tensor_parallel)   4 weights + 4 gradients + 8 moments, all in 32 bits; computed under autocast,
                                          or FSDP's cast, with 16-bit copies that are temporary
PyTorch, weights loaded in 16 bits        2 weights + 2 gradients + 4 moments: nothing has 32 bits
DeepSpeed (zero1-3) in bfloat16           2 weights + 2 gradients + 12: 32-bit weights and moments
DeepSpeed in float32                      4 weights + 4 gradients + 12: the 32-bit weights are held twice
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.schema.cluster import DEEPSPEED, FSDP, Sharding
from configs.schema.train import QUANTIZED_METHODS
from tasks.plan.memory.jobs import TrainingJob


@dataclass(frozen=True)
class BytesPerParameter:
    """Bytes that a trained parameter takes in each role, before anything is divided; or of all parameters."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """Sum of the roles."""
        return self.weights + self.gradients + self.optimizer


PYTORCH = BytesPerParameter(4, 4, 8)
PYTORCH_16_BIT = BytesPerParameter(2, 2, 4)
DEEPSPEED_16_BIT = BytesPerParameter(2, 2, 12)
DEEPSPEED_32_BIT = BytesPerParameter(4, 4, 12)
_EIGHT_BIT_MOMENTS = 2
# NF4, blocks of 64 with an 8-bit scale, 256 of which share a 32-bit one: https://arxiv.org/abs/2305.14314
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


def divisors(sharding: Sharding, num_gpus: int, gpus_per_node: int = 8) -> tuple[int, int, int]:
    """Return among how many GPUs weights, gradients and optimizer of one copy of the model are divided."""
    if sharding == "zero1":
        return 1, 1, num_gpus
    if sharding == "zero2":
        return 1, num_gpus, num_gpus
    if sharding == "fsdp_hybrid_shard":
        within = min(num_gpus, gpus_per_node)
        return within, within, within
    if sharding in ("none", "fsdp_no_shard"):
        return 1, 1, 1
    return num_gpus, num_gpus, num_gpus


def divided_states(
    parameters: float, each: BytesPerParameter, sharding: Sharding, num_gpus: int, gpus_per_node: int = 8
) -> BytesPerParameter:
    """Return the bytes of one GPU for `parameters` trained ones: Table 1 of https://arxiv.org/abs/1910.02054."""
    of_weights, of_gradients, of_optimizer = divisors(sharding, num_gpus, gpus_per_node)
    return BytesPerParameter(
        parameters * each.weights / of_weights,
        parameters * each.gradients / of_gradients,
        parameters * each.optimizer / of_optimizer,
    )


def bytes_per_trained(job: TrainingJob) -> BytesPerParameter:
    """Return what a trained parameter takes with the job's library, precision and optimizer."""
    # adapters and virtual tokens are trained in 32 bits over any base
    each = PYTORCH_16_BIT if job.method == "full" and job.base_bits == 16 else PYTORCH
    moments = each.optimizer
    if job.sharding in DEEPSPEED:
        each = DEEPSPEED_16_BIT if job.precision == "bfloat16" else DEEPSPEED_32_BIT
        moments = PYTORCH.optimizer
    if job.optimizer == "adamw":
        return each
    return BytesPerParameter(each.weights, each.gradients, each.optimizer - moments + _EIGHT_BIT_MOMENTS)


def frozen_weight_bytes(job: TrainingJob) -> float:
    """Return the bytes of the base under an adapter or virtual tokens, undivided; 0 for `full`."""
    if job.method == "full":
        return 0.0
    is_cast = job.sharding in DEEPSPEED and job.precision == "bfloat16"
    other, parameters = 2 if is_cast else job.base_bits // 8, job.model_parameters
    if job.method not in QUANTIZED_METHODS:
        return other * parameters
    linear = job.shape.quantized_parameters
    if job.method == "qlora":
        quantized = NF4_BYTES * linear
    else:
        # LLM.int8(): one byte, and a 32-bit scale for each output
        scales = sum(each.count * each.outputs for each in job.shape.linear_maps if each.is_module)
        quantized = linear + 4.0 * scales
    return quantized + other * (parameters - linear)


def compute_bytes(job: TrainingJob) -> int:
    """Return the bytes of a number that layers compute with."""
    return 2 if job.precision == "bfloat16" or weight_bits(job) == 16 else 4


def weight_bits(job: TrainingJob) -> Literal[16, 32]:
    """Return the type in which the layers' weights meet the rows before any autocast: it is that of what flows
    between the layers."""
    is_cast = job.precision == "bfloat16" and job.sharding in (*DEEPSPEED, *FSDP)
    return 16 if is_cast else job.base_bits


def hidden_bytes(job: TrainingJob) -> int:
    """Return the bytes of a number of the last hidden states, and of the loss that is taken of them.

    Under FSDP every part hands on float32, and nothing casts the loss: training has its mixed precision done by FSDP's
    parts, and not by autocast.
    """
    if job.sharding in FSDP and job.precision == "bfloat16":
        return 4
    return compute_bytes(job)


def states_of(job: TrainingJob) -> BytesPerParameter:
    """Return the bytes of one GPU when all gradients are there, nothing offloaded: the base too, no reference."""
    trained = divided_states(
        job.trained_parameters, bytes_per_trained(job), job.sharding, job.num_gpus, job.gpus_per_node
    )
    weights = trained.weights + frozen_weight_bytes(job) / divisors(job.sharding, job.num_gpus, job.gpus_per_node)[0]
    if job.sharding != "tensor_parallel":
        return BytesPerParameter(weights, trained.gradients, trained.optimizer)
    share = job.num_gpus * _tensor_parallel_share(job)
    return BytesPerParameter(weights * share, trained.gradients * share, trained.optimizer * share)


def reference_bytes(job: TrainingJob) -> float:
    """Return the bytes of the model that training began with, where it is a second one: of an adapter it is the base,
    with the adapter switched off. DeepSpeed divides it in stage 3 only, FSDP as it does the trained one."""
    if not job.has_reference or job.method != "full":
        return 0.0
    each = bytes_per_trained(job).weights
    return each * job.model_parameters / divisors(job.sharding, job.num_gpus, job.gpus_per_node)[0]


def _tensor_parallel_share(job: TrainingJob) -> float:
    """Return the share of the parameters on each GPU: linear maps and head divided, norms and another
    embedding whole."""
    shape = job.shape
    divided = shape.linear_parameters + shape.embedding_parameters
    return (divided / job.num_gpus + shape.parameters - divided) / shape.parameters

"""Bytes of one GPU while a model trains: weights, gradients, optimizer, activations, logits and buffers.

States follow ZeRO, Rajbhandari et al. 2020 (https://arxiv.org/abs/1910.02054), with the bytes that the libraries here
hold, which are not always those of the paper:

PyTorch (none, fsdp_*, tensor_parallel)   4 weights + 4 gradients + 8 moments, all in 32 bits; computed under autocast,
                                          or FSDP's cast, with 16-bit copies that are temporary
DeepSpeed (zero1-3) in bfloat16           2 weights + 2 gradients + 12: 32-bit weights and moments
DeepSpeed in float32                      4 weights + 4 gradients + 12: the 32-bit weights are held twice

Activations are those of transformers' Llama with PyTorch's kernels and SDPA or flash attention, counted tensor by
tensor; a test counts them in the real model. Fused kernels save less. All is taken to be there at the same time, so
that the sum is an upper bound; what the allocator loses to fragmentation and the CUDA context are not in it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from configs.schema_cluster import DEEPSPEED, FSDP, Sharding
from configs.schema_train import QUANTIZED_METHODS
from tasks.plan.jobs import TrainingJob
from tasks.plan.shapes import ModelShape

_MAX_LIVE_PARAMETERS = 10**9  # DeepSpeed's default of stage3_max_live_parameters
_ZERO_BUCKET = 200_000_000  # reduce_bucket_size of configs/deepspeed
_LOSS_TILE_TOKENS, _LOSS_TILE_WORDS = 4096, 32768  # TRL's log-probabilities
_STEP_GROUP = 10**9  # DeepSpeed's default of sub_group_size


@dataclass(frozen=True)
class BytesPerParameter:
    """Bytes that a trained parameter takes in each role, before anything is divided."""

    weights: float
    gradients: float
    optimizer: float

    @property
    def total(self) -> float:
        """Sum of the roles."""
        return self.weights + self.gradients + self.optimizer


PYTORCH = BytesPerParameter(4, 4, 8)
DEEPSPEED_16_BIT = BytesPerParameter(2, 2, 12)
DEEPSPEED_32_BIT = BytesPerParameter(4, 4, 12)
# moments of 2 bytes in the place of 8
_EIGHT_BIT_SAVES = 6
# NF4, blocks of 64 with an 8-bit scale, 256 of which share a 32-bit one: https://arxiv.org/abs/2305.14314
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of one GPU at its fullest, and of the host's memory for each GPU.

    `buffers` are there while rows pass through: gathered or cast weights and what is about to be reduced; `step` is
    temporary while the optimizer steps, when activations, logits and buffers are gone.
    """

    weights: float
    gradients: float
    optimizer: float
    activations: float
    logits: float
    buffers: float
    step: float
    host: float

    @property
    def total(self) -> float:
        """Bytes at the fuller of the two moments."""
        states = self.weights + self.gradients + self.optimizer
        return states + max(self.activations + self.logits + self.buffers, self.step)


def fits(plan: MemoryPlan, memory_bytes: float) -> bool:
    """Return whether the plan's total is at most the GPU's memory."""
    return plan.total <= memory_bytes


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
    each = PYTORCH
    if job.sharding in DEEPSPEED:
        each = DEEPSPEED_16_BIT if job.precision == "bfloat16" else DEEPSPEED_32_BIT
    if job.optimizer == "adamw":
        return each
    return BytesPerParameter(each.weights, each.gradients, each.optimizer - _EIGHT_BIT_SAVES)


def frozen_weight_bytes(job: TrainingJob) -> float:
    """Return the bytes of the base under an adapter or virtual tokens, undivided; 0 for `full`."""
    if job.method == "full":
        return 0.0
    other = compute_bytes(job)
    if job.method not in QUANTIZED_METHODS:
        return other * job.shape.parameters
    linear = job.shape.linear_parameters
    if job.method == "qlora":
        quantized = NF4_BYTES * linear
    else:
        # LLM.int8(): one byte, and a 32-bit scale for each output
        quantized = linear + 4.0 * job.shape.layers * sum(outputs for _, outputs in job.shape.linear_sizes)
    return quantized + other * (job.shape.parameters - linear)


def compute_bytes(job: TrainingJob) -> int:
    """Return the bytes of a number in the job's precision."""
    return 2 if job.precision == "bfloat16" else 4


def weight_bits(job: TrainingJob) -> Literal[16, 32]:
    """Return the type in which the layers' weights meet the rows before any autocast: it is that of what flows
    between the layers."""
    if job.precision == "float32":
        return 32
    is_cast = job.method != "full" or job.sharding in (*DEEPSPEED, *FSDP)
    return 16 if is_cast else 32


def korthikanti_layer_bytes(hidden: int, heads: int, length: int, batch: int, has_scores: bool) -> float:
    """Return what a layer of GPT saves in 16 bits: s b h (34 + 5 a s / h), Korthikanti et al. 2022, equation 1
    (https://arxiv.org/abs/2205.05198); without the second term where attention keeps no scores."""
    scores = 5 * heads * length / hidden if has_scores else 0.0
    return length * batch * hidden * (34 + scores)


def layer_activation_bytes(
    shape: ModelShape, tokens: int, weight_bits: int, precision: str = "bfloat16", split: int = 1
) -> float:
    """Return what a Llama layer saves for its backward pass.

    Each norm saves its input and the normalized input in 32 bits, and its output; attention q, k, v (repeated for
    each head), its output twice and the log-sum of each head; the MLP four tensors of its width. `split` is the GPUs
    that divide heads and MLP, as under `tensor_parallel`; norms are whole on each.
    """
    h, wide, heads = shape.hidden, shape.intermediate, shape.heads
    if precision == "float32":
        norms, attention, mlp = 24 * h, 20 * h, 16 * wide
    elif weight_bits == 16:
        norms, attention, mlp = 16 * h, 10 * h, 8 * wide
    else:
        # the residual stream stays in 32 bits, and what autocast makes of it is saved beside it
        norms, attention, mlp = 20 * h, 16 * h, 8 * wide
    return tokens * (norms + 8 + (attention + mlp + 4 * heads) / split)


def checkpoint_bytes(shape: ModelShape, tokens: int, weight_bits: int) -> int:
    """Return what is kept of a layer that will be computed again: its input."""
    return tokens * shape.hidden * weight_bits // 8


def gradient_temporaries_bytes(
    shape: ModelShape, tokens: int, weight_bits: int, precision: str = "bfloat16", split: int = 1
) -> float:
    """Return the gradients of activations that are there at once in the backward pass of the MLP."""
    per_wide, per_hidden = (12, 8) if precision == "float32" else (6, 2 if weight_bits == 16 else 8)
    return tokens * (per_wide * shape.intermediate / split + per_hidden * shape.hidden)


def estimate_memory(job: TrainingJob) -> MemoryPlan:
    """Return the bytes of one GPU, item by item, and the host's for each GPU.

    Objectives that hold a reference model or generate answers take more than this.
    """
    trained = divided_states(
        job.trained_parameters, bytes_per_trained(job), job.sharding, job.num_gpus, job.gpus_per_node
    )
    weights = trained.weights + frozen_weight_bytes(job) / divisors(job.sharding, job.num_gpus, job.gpus_per_node)[0]
    gradients, optimizer = trained.gradients, trained.optimizer
    if job.sharding == "tensor_parallel":
        share = _tensor_parallel_share(job)
        weights *= job.num_gpus * share
        gradients, optimizer = gradients * job.num_gpus * share, optimizer * job.num_gpus * share
    host = 0.0
    if job.offload != "none":
        # the host keeps gradients in 32 bits for its optimizer, and ZeRO 3 also those that the passes add up
        added_up = gradients if job.sharding == "zero3" else 0.0
        host = optimizer + added_up + 4 * job.trained_parameters / job.num_gpus
        optimizer = 0.0
        gradients = gradients if job.sharding == "zero1" else 0.0
    if job.offload == "optimizer_and_parameters":
        host, weights = host + weights, 0.0
    return MemoryPlan(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        activations=_activations(job),
        logits=_logits(job),
        buffers=_buffers(job),
        step=_step_temporaries(job),
        host=host,
    )


def _tensor_parallel_share(job: TrainingJob) -> float:
    """Return the share of the parameters on each GPU: linear maps and head divided, norms and another
    embedding whole."""
    shape = job.shape
    divided = shape.linear_parameters + shape.embedding_parameters
    return (divided / job.num_gpus + shape.parameters - divided) / shape.parameters


def _activations(job: TrainingJob) -> float:
    shape, bits, tokens = job.shape, weight_bits(job), job.tokens
    split = job.num_gpus if job.sharding == "tensor_parallel" else 1
    layers = shape.layers / job.num_gpus if job.sharding == "layers" else shape.layers
    layer = layer_activation_bytes(shape, tokens, bits, job.precision, split)
    temporaries = gradient_temporaries_bytes(shape, tokens, bits, job.precision, split)
    last_norm = tokens * shape.hidden * (12 if job.precision == "float32" else 8 if bits == 16 else 10)
    if job.has_checkpointing:
        return layers * checkpoint_bytes(shape, tokens, bits) + layer + temporaries + last_norm
    return layers * layer + temporaries + last_norm


def _logits(job: TrainingJob) -> float:
    """Log-probabilities are taken in tiles, from a whole head; its gradient is summed in 32 bits before it is cast."""
    shape, size = job.shape, compute_bytes(job)
    split = job.num_gpus if job.sharding == "tensor_parallel" else 1
    words = min(shape.vocabulary, _LOSS_TILE_WORDS)
    tile = min(job.tokens, _LOSS_TILE_TOKENS) * words * size
    cast_head = 0 if weight_bits(job) == 8 * size else words * shape.hidden * size
    of_hidden = job.tokens * shape.hidden * (4 + size)
    of_head = (4 + size) * shape.embedding_parameters if job.method == "full" else 0.0
    whole_head = shape.embedding_parameters * weight_bits(job) // 8 if split > 1 else 0
    return tile + cast_head + of_hidden + of_head + whole_head


def _buffers(job: TrainingJob) -> float:
    shape, size, trained = job.shape, compute_bytes(job), job.trained_parameters
    largest = max(shape.layer_parameters, shape.embedding_parameters)
    trained_share = trained / shape.parameters
    if job.sharding in FSDP:
        kept_head = 0 if shape.is_tied else shape.embedding_parameters
        gathered = shape.parameters if job.sharding == "fsdp_shard_grad_op" else 2 * largest + kept_head
        # of this unit, and of the one before that is being reduced; or of all, when passes add them up undivided
        unreduced = 2 * min(largest, shape.parameters) * trained_share
        if job.accumulation > 1 and not job.reduces_each_pass:
            unreduced = trained
        return size * (min(gathered, shape.parameters) + unreduced)
    if job.sharding in ("zero1", "zero2"):
        num_buckets = 1 if job.sharding == "zero1" else 2
        return size * num_buckets * min(_ZERO_BUCKET, trained)
    if job.sharding == "zero3":
        gathered = min(shape.parameters, max(_MAX_LIVE_PARAMETERS, largest))
        return size * (gathered + (largest + 2 * shape.hidden**2) * trained_share)
    copies = 0.0
    if job.precision == "bfloat16" and job.method == "full" and job.accumulation > 1:
        # autocast keeps its 16-bit copies until the pass ends; in a first pass there are no gradients yet instead
        copies = 2.0 * shape.linear_parameters / (1 if job.sharding in ("none", "fsdp_no_shard") else job.num_gpus)
    if job.num_gpus > 1 and job.sharding in ("none", "fsdp_no_shard"):
        # DDP's buckets are a second copy of all gradients
        copies += 4.0 * trained
    return copies


def _step_temporaries(job: TrainingJob) -> float:
    """DeepSpeed copies the gradients of what a GPU updates, in 32 bits: at once, or by groups under ZeRO 3."""
    if job.sharding not in DEEPSPEED or job.offload != "none":
        return 0.0
    own = job.trained_parameters / job.num_gpus
    return 4.0 * (min(own, _STEP_GROUP) if job.sharding == "zero3" else own)

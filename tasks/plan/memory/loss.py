"""Counts the bytes of the loss over the vocabulary, which TRL computes in tiles, and of the cache in generation.

TRL 1.16 projects `TOKEN_CHUNK_SIZE` tokens onto `chunk_size` vocabulary entries at a time
(trl.kernels.chunked_logprob), in a buffer of that width even if the vocabulary is smaller. On a GPU one kernel reduces
a tile to a few numbers per token; on a CPU PyTorch takes several steps, each of which makes a tensor of the tile's
size.
"""

from __future__ import annotations

from configs.objectives import SCORING
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.memory.states import compute_bytes, hidden_bytes, weight_bits

_TILE_TOKENS, _TILE_VOCABULARY = 4096, 32768
# forward: logits, their exponential, the product of both; backward, with the logits freed: logits scaled twice, log p,
# p, the gradient, the targets as numbers, their difference from p, and that times the gradient of the loss
_FORWARD_TILES, _BACKWARD_TILES = 3, 8 - 1


def loss_forward_bytes(job: TrainingJob) -> float:
    """Return the bytes of the loss in the forward pass: a tile and the tensors computed from it."""
    if job.objective in SCORING:
        return 0.0
    return _tile_bytes(job, _FORWARD_TILES) + _head_copies(job)


def loss_backward_bytes(job: TrainingJob) -> float:
    """Return the bytes of the loss in the backward pass: a tile, and the gradients of the last hidden states and of the
    head, both summed in 32 bits before they are cast."""
    if job.objective in SCORING:
        return 0.0
    size, hidden = compute_bytes(job), job.predicted_tokens * job.shape.hidden
    hidden_gradient = hidden * (4 + (size if weight_bits(job) == 32 and size == 2 else 0))
    of_head = _head_copies(job) + head_gradient_bytes(job)
    if hidden_bytes(job) > size:
        # the 32-bit copy of a tile's words is freed before the gradient is cast to the 16 bits of the head
        cast = head_gradient_bytes(job) / 3
        of_head -= min(cast, _head_copies(job))
    return _tile_bytes(job, _BACKWARD_TILES) + hidden_gradient + of_head


def head_gradient_bytes(job: TrainingJob) -> float:
    """Return the bytes of the gradient of the whole head: in 32 bits, and again in the head's type if that differs."""
    if job.method != "full" or job.objective in SCORING:
        return 0.0
    return job.shape.embedding_parameters * (4.0 if weight_bits(job) == 32 else 6.0)


def _tile_bytes(job: TrainingJob, num_cpu_tensors: int) -> float:
    tokens = min(job.predicted_tokens, _TILE_TOKENS)
    buffer = tokens * _TILE_VOCABULARY * hidden_bytes(job)
    if job.device == "cuda":
        return buffer
    width = min(job.shape.vocabulary, _TILE_VOCABULARY)
    # a mask of one byte per logit marks the target
    return buffer + tokens * width * (4 * num_cpu_tensors + 1)


def _head_copies(job: TrainingJob) -> float:
    """Return the bytes of copies of the head: a tile's rows cast to the type of the loss if the head has another, and
    the whole head if tensor parallelism gathers it."""
    shape, size = job.shape, hidden_bytes(job)
    width = shape.embedding_parameters / shape.vocabulary
    cast = 0.0 if weight_bits(job) == 8 * size else min(shape.vocabulary, _TILE_VOCABULARY) * width * size
    return cast + (shape.embedding_parameters * weight_bits(job) / 8 if job.sharding == "tensor_parallel" else 0.0)


def cache_bytes(layers: int, key_value_width: int, sequences: int, positions: int, size: int) -> float:
    """Return the bytes of the keys and values of all layers while a model generates, `size` bytes per number."""
    return 2.0 * layers * key_value_width * sequences * positions * size

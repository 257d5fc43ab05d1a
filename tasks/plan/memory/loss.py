"""Bytes of the loss over the vocabulary, which TRL takes in tiles, and of the tokens that a model generates.

TRL 1.16 projects `TOKEN_CHUNK_SIZE` tokens onto `chunk_size` words at a time (trl.kernels.chunked_logprob), in one
buffer of that width however few words the model has. On a GPU one kernel folds a tile into a few numbers of each token;
on a CPU PyTorch does so step by step, each of which makes a tensor of the tile's size.
"""

from __future__ import annotations

from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.memory.states import compute_bytes, hidden_bytes, weight_bits

_TILE_TOKENS, _TILE_WORDS = 4096, 32768
# logits, their exponential and its product with them; and, for the gradient, scaled twice, log p, p, the gradient, the
# targets as numbers, their difference from p, and that times the gradient of the loss: the logits are gone by then
_FORWARD_TILES, _BACKWARD_TILES = 3, 8 - 1


def loss_forward_bytes(job: TrainingJob) -> float:
    """Return what the loss takes in the forward pass, its tile and what is made of it."""
    if job.objective == "reward":
        return 0.0
    return _tile(job, _FORWARD_TILES) + _head_copies(job)


def loss_backward_bytes(job: TrainingJob) -> float:
    """Return what the loss takes in the backward pass: a tile, the gradient of the last hidden states, and that of the
    head, both summed in 32 bits before they are cast."""
    if job.objective == "reward":
        return 0.0
    size, hidden = compute_bytes(job), job.predicted_tokens * job.shape.hidden
    of_hidden = hidden * (4 + (size if weight_bits(job) == 32 and size == 2 else 0))
    of_head = _head_copies(job) + head_gradient_bytes(job)
    if hidden_bytes(job) > size:
        # the 32-bit copy of a tile's words is gone when the gradient is cast to the 16 bits of the head
        cast = head_gradient_bytes(job) / 3
        of_head -= min(cast, _head_copies(job))
    return _tile(job, _BACKWARD_TILES) + of_hidden + of_head


def head_gradient_bytes(job: TrainingJob) -> float:
    """Return the gradient of the whole head, in 32 bits and once more in its own type where that is another."""
    if job.method != "full" or job.objective == "reward":
        return 0.0
    return job.shape.embedding_parameters * (4.0 if weight_bits(job) == 32 else 6.0)


def _tile(job: TrainingJob, num_on_cpu: int) -> float:
    tokens = min(job.predicted_tokens, _TILE_TOKENS)
    buffer = tokens * _TILE_WORDS * hidden_bytes(job)
    if job.device == "cuda":
        return buffer
    words = min(job.shape.vocabulary, _TILE_WORDS)
    # and one byte for each word: whether it is the target
    return buffer + tokens * words * (4 * num_on_cpu + 1)


def _head_copies(job: TrainingJob) -> float:
    """Return the words of a tile in the type of the loss, where that is not the head's; and the whole head where
    tensor parallelism gathers it."""
    shape, size = job.shape, hidden_bytes(job)
    width = shape.embedding_parameters / shape.vocabulary
    cast = 0.0 if weight_bits(job) == 8 * size else min(shape.vocabulary, _TILE_WORDS) * width * size
    return cast + (shape.embedding_parameters * weight_bits(job) / 8 if job.sharding == "tensor_parallel" else 0.0)


def cache_bytes(layers: int, key_value_width: int, sequences: int, positions: int, size: int) -> float:
    """Return the keys and values of all layers while a model generates, `size` bytes a number."""
    return 2.0 * layers * key_value_width * sequences * positions * size

"""Bytes that a layer keeps for its backward pass, and those that are there for a moment within it.

For a Llama they are counted tensor by tensor in transformers' code with SDPA or flash attention; a test counts what
autograd saves in the real model. Other architectures bring their own counts in `ModelShape`. Fused kernels save less.
"""

from __future__ import annotations

from configs.schema.train import PROMPT_METHODS
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.memory.states import compute_bytes, hidden_bytes, weight_bits
from tasks.plan.shapes.shape import ModelShape


def layer_activation_bytes(job: TrainingJob) -> float:
    """Return what the average layer saves of one pass, for its backward pass.

    Where `shape.saved_bytes` is given, those; else those of a Llama. A norm saves its input in 32 bits; where its
    weight is trained, the normalized input; where the linear maps after it learn, its output. Attention saves queries,
    keys, values, its output, and the log-sum of each head; the MLP three tensors of its width, and a fourth where its
    last map learns. Autocast makes a 16-bit copy of an input for each linear map that learns. Rows with padding attend
    under a mask, which each layer makes numbers of, and with keys and values repeated for each head.
    """
    tokens, shape = job.sequence_tokens, job.shape
    split = job.num_gpus if job.sharding == "tensor_parallel" else 1
    if shape.saved_bytes is not None:
        scores = 0.0 if shape.score_bytes is None else shape.score_bytes[_computation(job)] * job.key_length
        per_token = shape.saved_bytes[_computation(job)] + scores
        # counted with a mask; what tensor parallelism divides of it, the counts do not say
        return tokens * (per_token + _adapter_bytes(job))
    norms, divided = _llama_bytes(job)
    mask = _mask_bytes(job) + _repeated_bytes(job) / split
    return tokens * (norms + divided / split + _adapter_bytes(job)) + mask


def _llama_bytes(job: TrainingJob) -> tuple[float, float]:
    """Return bytes of a token around the norms, whole on each GPU, and of attention and MLP."""
    shape, size, learns = job.shape, compute_bytes(job), job.method not in PROMPT_METHODS
    h, q, wide, full = shape.hidden, shape.query_width, shape.intermediate, job.method == "full"
    per_head = 4 * shape.heads
    # inputs of two norms; each has a number for its row
    norms = 8.0 * h + 8
    if full:
        norms += 2 * h * (4 if weight_bits(job) == 32 else 2)
    attention = size * (2 * q + 2 * shape.key_value_width) + per_head
    mlp = size * wide * (4 if learns else 3)
    if not learns:
        return norms, attention + mlp
    if size == 4 or (full and weight_bits(job) == 16):
        # the norm's output is what all maps behind it save
        return norms + 2 * size * h, attention + mlp
    # without autocast an adapter computes in 32 bits, and copies its input for that
    copied = 4 if job.precision == "float32" else size
    # copies for q, k, v, gate and up; and for o, whose input an adapter on 16-bit weights copies once more
    copies = 5 * copied * h
    return norms + copies, attention + mlp + (0 if full else copied * q + (copied - size) * wide)


def _adapter_bytes(job: TrainingJob) -> float:
    """Return the bytes of a token between the two matrices of all adapters of a layer."""
    if job.method == "full" or job.method in PROMPT_METHODS:
        return 0.0
    targets = job.shape.targeted(job.lora_targets)
    return compute_bytes(job) * job.lora_rank * sum(each.count for each in targets) / job.shape.layers


def has_mask(job: TrainingJob) -> bool:
    """Return whether attention is given a mask: rows of unlike length, or a prefix before them."""
    return job.has_padding or job.method == "prefix_tuning"


def _mask_bytes(job: TrainingJob) -> float:
    if not has_mask(job):
        return 0.0
    return float(compute_bytes(job) * job.sequence_tokens * job.key_length)


def _repeated_bytes(job: TrainingJob) -> float:
    """Return the bytes of keys and values, repeated for each head, over those of their own heads."""
    if not has_mask(job):
        return 0.0
    shape = job.shape
    positions = job.num_sequences * job.key_length
    own = job.sequence_tokens * shape.key_value_width
    return 2.0 * compute_bytes(job) * (positions * shape.query_width - own)


def checkpoint_bytes(job: TrainingJob) -> float:
    """Return what is kept of a layer that will be computed again: its input."""
    return job.sequence_tokens * job.shape.hidden * weight_bits(job) / 8


def last_norm_bytes(job: TrainingJob) -> float:
    """Return what the norm before the head saves: its input in 32 bits, the normalized input where its weight is
    trained, and the output, which the loss copies without the last position of each row."""
    of_output = max(weight_bits(job) // 8, hidden_bytes(job))
    return job.sequence_tokens * job.shape.hidden * (4 + of_output * (2 if job.method == "full" else 1))


def gradient_temporaries_bytes(
    shape: ModelShape, tokens: int, weight_bits: int, precision: str = "bfloat16", split: int = 1
) -> float:
    """Return the gradients of activations that are there at once in the backward pass of a layer: in a Llama that of
    the MLP's product and of both its factors, and that of the residual stream."""
    if shape.temporary_bytes is not None:
        return tokens * shape.temporary_bytes[2 if precision == "float32" else 0 if weight_bits == 16 else 1]
    per_wide, per_hidden = (12, 8) if precision == "float32" else (6, 2 if weight_bits == 16 else 8)
    return tokens * (per_wide * shape.intermediate / split + per_hidden * shape.hidden)


def layer_backward_bytes(job: TrainingJob) -> float:
    """Return what a layer's backward pass takes over what the layer saved: the gradients of its activations, without
    the input of its last map, which is gone by then, and the gradient of the largest map."""
    shape, size = job.shape, compute_bytes(job)
    split = job.num_gpus if job.sharding == "tensor_parallel" else 1
    tokens = job.sequence_tokens
    precision = "float32" if size == 4 else "bfloat16"
    temporaries = gradient_temporaries_bytes(shape, tokens, weight_bits(job), precision, split)
    if job.method not in PROMPT_METHODS and shape.temporary_bytes is None:
        temporaries -= tokens * size * shape.intermediate / split
    return temporaries


def layer_forward_bytes(job: TrainingJob) -> float:
    """Return what a layer takes for a moment where nothing is saved: the MLP's gate, its activation and the product
    with up, three tensors of its width at once, beside the residual stream and the norm's output."""
    shape, size = job.shape, compute_bytes(job)
    split = job.num_gpus if job.sharding == "tensor_parallel" else 1
    return job.sequence_tokens * (3 * size * shape.intermediate / split + (4 + 2 * size) * shape.hidden)


def _computation(job: TrainingJob) -> int:
    """Return the place of the job's computation in the counts of `ModelShape`."""
    if compute_bytes(job) == 4:
        return 2
    return 0 if weight_bits(job) == 16 else 1

"""Counts the bytes that a layer saves for its backward pass, and its temporary bytes in the forward and backward pass.

The counts for a Llama follow transformers' code, with SDPA or flash attention, tensor by tensor; a test compares them
with what autograd saves in the real model. Other architectures have their own counts in `ModelShape`. Fused kernels
save less.
"""

from __future__ import annotations

from configs.schema.train import PROMPT_METHODS
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.memory.states import compute_bytes, hidden_bytes, weight_bits
from tasks.plan.shapes.shape import ModelShape


def layer_activation_bytes(job: TrainingJob) -> float:
    """Return the bytes that the average layer saves for the backward pass of one micro-batch.

    They are `shape.saved_bytes` if given, else those of a Llama. A norm saves its input in 32 bits; the normalized
    input if its weight is trained; its output if the linear maps after it are trained. Attention saves queries, keys,
    values, its output, and the log-sum of each head. The MLP saves three tensors of its width, and a fourth if its last
    map is trained. Autocast makes a 16-bit copy of the input of each trained linear map. With padded rows each layer
    also saves the mask as numbers, and keys and values repeated for each head.
    """
    tokens, shape = job.sequence_tokens, job.shape
    split = job.num_gpus if job.sharding == "tensor_parallel" else 1
    if shape.saved_bytes is not None:
        scores = 0.0 if shape.score_bytes is None else shape.score_bytes[_computation_index(job)] * job.key_length
        per_token = shape.saved_bytes[_computation_index(job)] + scores
        # the counts include a mask, but do not say which part tensor parallelism shards
        return tokens * (per_token + _adapter_bytes(job)) + eager_score_bytes(job)
    norms, attention_and_mlp = _llama_bytes_per_token(job)
    mask = 0.0 if job.has_scores else _mask_bytes(job)
    mask += (_repeated_key_value_bytes(job) + eager_score_bytes(job)) / split
    return tokens * (norms + attention_and_mlp / split + _adapter_bytes(job)) + mask


def eager_score_bytes(job: TrainingJob) -> float:
    """Return the bytes of the scores that eager attention saves in a layer: their softmax in 32 bits, and a copy in the
    type of the computation if that is another."""
    if not job.has_scores:
        return 0.0
    size = compute_bytes(job)
    return float(job.sequence_tokens * job.key_length * job.shape.heads * (4 if size == 4 else 4 + size))


def _llama_bytes_per_token(job: TrainingJob) -> tuple[float, float]:
    """Return the bytes per token around the norms, replicated on each GPU, and in attention and MLP, sharded."""
    shape, size, trains_linears = job.shape, compute_bytes(job), job.method not in PROMPT_METHODS
    h, q, i, is_full = shape.hidden, shape.query_width, shape.intermediate, job.method == "full"
    per_head = 4 * shape.heads
    # the inputs of two norms, and one number per token for each
    norms = 8.0 * h + 8
    if is_full:
        norms += 2 * h * (4 if weight_bits(job) == 32 else 2)
    attention = size * (2 * q + 2 * shape.key_value_width) + per_head
    mlp = size * i * (4 if trains_linears else 3)
    if not trains_linears:
        return norms, attention + mlp
    if size == 4 or (is_full and weight_bits(job) == 16):
        # all maps after a norm save the same tensor, its output
        return norms + 2 * size * h, attention + mlp
    # without autocast an adapter computes in 32 bits, and casts its input for that
    copy_size = 4 if job.precision == "float32" else size
    # copies of the inputs of q, k, v, gate and up; an adapter on 16-bit weights also copies the input of o
    copies = 5 * copy_size * h
    return norms + copies, attention + mlp + (0 if is_full else copy_size * q + (copy_size - size) * i)


def _adapter_bytes(job: TrainingJob) -> float:
    """Return the bytes per token between the two matrices of each adapter, over all adapters of a layer."""
    if job.method == "full" or job.method in PROMPT_METHODS:
        return 0.0
    targets = job.shape.targeted(job.lora_targets)
    return compute_bytes(job) * job.lora_rank * sum(target.count for target in targets) / job.shape.layers


def has_mask(job: TrainingJob) -> bool:
    """Return whether attention gets a mask: rows differ in length, or have a prefix."""
    return job.has_padding or job.method == "prefix_tuning"


def _mask_bytes(job: TrainingJob) -> float:
    if not has_mask(job):
        return 0.0
    return float(compute_bytes(job) * job.sequence_tokens * job.key_length)


def _repeated_key_value_bytes(job: TrainingJob) -> float:
    """Return the bytes that keys and values repeated for each head take beyond the unrepeated ones."""
    if not (has_mask(job) or job.has_scores):
        return 0.0
    shape = job.shape
    positions = job.num_sequences * job.key_length
    unrepeated = job.sequence_tokens * shape.key_value_width
    return 2.0 * compute_bytes(job) * (positions * shape.query_width - unrepeated)


def checkpoint_bytes(job: TrainingJob) -> float:
    """Return the bytes that a checkpointed layer keeps: its input."""
    return job.sequence_tokens * job.shape.hidden * weight_bits(job) / 8


def last_norm_bytes(job: TrainingJob) -> float:
    """Return the bytes that the norm before the head saves: its input in 32 bits, the normalized input if its weight is
    trained, and its output, which the loss copies without the last position of each row."""
    of_output = max(weight_bits(job) // 8, hidden_bytes(job))
    return job.sequence_tokens * job.shape.hidden * (4 + of_output * (2 if job.method == "full" else 1))


def gradient_temporaries_bytes(
    shape: ModelShape, tokens: int, weight_bits: int, precision: str = "bfloat16", split: int = 1
) -> float:
    """Return the bytes of activation gradients that exist at the same time in a layer's backward pass: in a Llama those
    of the MLP's product, of both its factors, and of the residual stream."""
    if shape.temporary_bytes is not None:
        return tokens * shape.temporary_bytes[2 if precision == "float32" else 0 if weight_bits == 16 else 1]
    per_intermediate, per_hidden = (12, 8) if precision == "float32" else (6, 2 if weight_bits == 16 else 8)
    return tokens * (per_intermediate * shape.intermediate / split + per_hidden * shape.hidden)


def layer_backward_bytes(job: TrainingJob) -> float:
    """Return the bytes that a layer's backward pass takes beyond what the layer saved.

    These are the gradients of its activations, less the input of its last map, which is freed by then. The gradient of
    the largest map is not included.
    """
    shape, size = job.shape, compute_bytes(job)
    split = job.num_gpus if job.sharding == "tensor_parallel" else 1
    tokens = job.sequence_tokens
    precision = "float32" if size == 4 else "bfloat16"
    temporaries = gradient_temporaries_bytes(shape, tokens, weight_bits(job), precision, split)
    if job.method not in PROMPT_METHODS and shape.temporary_bytes is None:
        temporaries -= tokens * size * shape.intermediate / split
    return temporaries


def layer_forward_bytes(job: TrainingJob) -> float:
    """Return the temporary bytes of a layer's forward pass when nothing is saved: three tensors of the MLP's width (the
    gate, its activation, the product with up), the residual stream and the norm's output."""
    shape, size = job.shape, compute_bytes(job)
    split = job.num_gpus if job.sharding == "tensor_parallel" else 1
    return job.sequence_tokens * (3 * size * shape.intermediate / split + (4 + 2 * size) * shape.hidden)


def _computation_index(job: TrainingJob) -> int:
    """Return the index of the job's computation in `ModelShape.saved_bytes` and its like."""
    if compute_bytes(job) == 4:
        return 2
    return 0 if weight_bits(job) == 16 else 1

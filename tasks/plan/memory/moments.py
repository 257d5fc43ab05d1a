"""Counts the memory at each moment of an optimizer step that may be its peak, item by item.

A micro-batch runs forward and saves activations; computes the loss while all of them exist; and runs backward, freeing
them layer by layer as gradients are computed. The largest of the moments below is the peak. The first micro-batch of a
step starts without gradients: they are freed after each step, not set to 0. Comments state how a library behaves where
that matters; all of it was observed in the allocator's record of real steps (benchmarks/memory_plan.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from configs.objectives import ONLINE, SCORING
from configs.schema.cluster import DEEPSPEED, FSDP
from configs.schema.train import QUANTIZED_METHODS
from tasks.plan.memory.activations import (
    checkpoint_bytes,
    last_norm_bytes,
    layer_activation_bytes,
    layer_backward_bytes,
    layer_forward_bytes,
)
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.memory.loss import cache_bytes, head_gradient_bytes, loss_backward_bytes, loss_forward_bytes
from tasks.plan.memory.states import bytes_per_trained, compute_bytes, reference_bytes, states_of, weight_bits

_MAX_LIVE_PARAMETERS = 10**9  # DeepSpeed's default of stage3_max_live_parameters
_STEP_GROUP = 10**9  # DeepSpeed's default of sub_group_size

LOSS = "the loss's backward pass, all activations saved"
REFERENCE = "the reference's forward pass, all activations saved"
CASTS = "the end of the forward pass, with autocast's 16-bit copies of the weights"
LAST_LAYER = "the backward pass of the last layer"
FIRST_LAYER = "the backward pass of the first layer, with nearly all gradients"
EMBEDDING = "the end of the backward pass, with all gradients"
STEP = "the optimizer's step"
GENERATION = "the generation of answers"


@dataclass(frozen=True)
class Moment:
    """Bytes of one GPU at one moment. `buffers` holds communication buffers, gathered and cast weights, and the
    optimizer's temporaries."""

    name: str
    weights: float
    gradients: float
    optimizer: float
    activations: float = 0.0
    logits: float = 0.0
    buffers: float = 0.0

    @property
    def total(self) -> float:
        """Sum of all items."""
        states = self.weights + self.gradients + self.optimizer
        return states + self.activations + self.logits + self.buffers


def moments_of(job: TrainingJob) -> list[Moment]:
    """Return the moments of the job on one GPU, in order of time."""
    moments = list(_training_moments(job))
    if job.objective in ONLINE:
        moments.insert(0, _generation(job, moments[0]))
    return moments


def _training_moments(job: TrainingJob) -> Iterator[Moment]:
    before = _before_forward(job)
    layers = job.shape.layers / job.num_gpus if job.sharding == "layers" else job.shape.layers
    layer_bytes = layer_activation_bytes(job)
    kept_per_layer = checkpoint_bytes(job) if job.has_checkpointing else layer_bytes
    saved = layers * kept_per_layer + last_norm_bytes(job)
    loss_buffers = before.buffers + _gathered_in_loss(job)
    casts = _autocast_copies(job)
    saved_casts = 0.0 if job.has_checkpointing else casts
    if casts:
        forward = saved + (layer_forward_bytes(job) if job.has_checkpointing else 0.0)
        yield replace(
            before, name=CASTS, activations=forward, logits=loss_forward_bytes(job), buffers=loss_buffers + casts
        )
    if job.has_reference:
        # the policy's activations are kept until the loss
        yield replace(
            before,
            name=REFERENCE,
            activations=saved + layer_forward_bytes(job),
            logits=loss_forward_bytes(job),
            buffers=loss_buffers + saved_casts,
        )
    logits = loss_backward_bytes(job)
    yield replace(before, name=LOSS, activations=saved, logits=logits, buffers=loss_buffers + saved_casts)
    yield from _backward_moments(job, before, layers, kept_per_layer, layer_bytes, saved_casts)
    gradients = _gradients_at_step(job)
    yield replace(before, name=STEP, gradients=gradients, buffers=before.buffers + _step_temporaries(job))


def _backward_moments(
    job: TrainingJob, before: Moment, layers: float, kept_per_layer: float, layer_bytes: float, saved_casts: float
) -> Iterator[Moment]:
    """Yield the moments of the backward pass: in the last layer, which comes first; in the first layer; at the end."""
    temporaries = layer_backward_bytes(job)
    recomputed = layer_bytes if job.has_checkpointing else 0.0
    buffers = before.buffers + _backward_buffers(job) + _dequantized_bytes(job)
    head_gradient, map_gradient = head_gradient_bytes(job), _largest_map_bytes(job)
    if job.sharding in (*DEEPSPEED, *FSDP):
        # it is reduced at once, in the buffers
        head_gradient = 0.0
    yield replace(
        before,
        name=LAST_LAYER,
        gradients=before.gradients + head_gradient + map_gradient,
        activations=layers * kept_per_layer + recomputed + temporaries,
        buffers=buffers + saved_casts,
    )
    all_gradients, embedding_gradient = _after_micro_batch(job, before), _embedding_gradient_bytes(job)
    yield replace(
        before,
        name=FIRST_LAYER,
        gradients=max(before.gradients + map_gradient, all_gradients - embedding_gradient),
        activations=layer_bytes + (checkpoint_bytes(job) if job.has_checkpointing else 0.0) + temporaries,
        buffers=buffers,
    )
    # the embedding's gradient is dense, whatever tokens the rows have, and is added to an existing one
    exists_twice = bool(before.gradients) or job.shape.is_tied or job.sharding in (*DEEPSPEED, *FSDP)
    yield replace(
        before, name=EMBEDDING, gradients=all_gradients + (embedding_gradient if exists_twice else 0.0), buffers=buffers
    )


def _before_forward(job: TrainingJob) -> Moment:
    """Return the memory when the last micro-batch of a step begins: gradients exist if there were others before it."""
    states = states_of(job)
    weights, optimizer = states.weights + reference_bytes(job), states.optimizer
    gradients = _after_micro_batch(job, None) if job.accumulation > 1 else 0.0
    buffers = 0.0
    if job.sharding == "zero3":
        # DeepSpeed keeps a buffer for its shard of the gradients, and one of h x h numbers for reductions
        gradients = states.gradients
        buffers = float(compute_bytes(job) * job.shape.hidden**2)
    if job.num_gpus > 1 and job.sharding in ("none", "fsdp_no_shard"):
        # DDP's buckets are a second, permanent copy of all gradients
        buffers = 4.0 * job.trained_parameters
    if job.offload != "none":
        optimizer, gradients = 0.0, _offloaded_gradients(job) if job.accumulation > 1 else 0.0
    if job.offload == "optimizer_and_parameters":
        weights = reference_bytes(job)
    return Moment("", weights, gradients, optimizer, buffers=buffers)


def _offloaded_gradients(job: TrainingJob) -> float:
    return states_of(job).gradients if job.sharding == "zero1" else 0.0


def _after_micro_batch(job: TrainingJob, before: Moment | None) -> float:
    """Return the bytes of gradients when a micro-batch ends.

    `before` is the memory when it began, with the gradients of earlier ones; None stands for the first micro-batch.
    """
    if job.offload != "none":
        return _offloaded_gradients(job)
    gradients = states_of(job).gradients
    if job.sharding == "zero1" and job.accumulation == 1:
        # they are reduced at once, and a GPU keeps its shard only
        return gradients / job.num_gpus
    if job.sharding == "zero2" and before is not None and before.gradients:
        # the micro-batch's shard, not yet added to that of the earlier ones
        return 2 * gradients
    return gradients


def _gradients_at_step(job: TrainingJob) -> float:
    if job.offload != "none":
        return _offloaded_gradients(job)
    gradients = states_of(job).gradients
    # ZeRO 1 has reduced them to its shard by then
    return gradients / job.num_gpus if job.sharding == "zero1" else gradients


def _largest_map_bytes(job: TrainingJob) -> float:
    """Return the bytes of the largest linear map's gradient, which is computed while the layer's activations exist."""
    if job.method != "full":
        return 0.0
    return _largest_map_parameters(job) * bytes_per_trained(job).gradients


def _dequantized_bytes(job: TrainingJob) -> float:
    """Return the bytes of the largest quantized map, which bitsandbytes dequantizes to compute with it."""
    if job.method not in QUANTIZED_METHODS:
        return 0.0
    return float(compute_bytes(job) * _largest_map_parameters(job))


def _largest_map_parameters(job: TrainingJob) -> int:
    return max((linear.inputs * linear.outputs for linear in job.shape.linear_maps), default=0)


def _embedding_gradient_bytes(job: TrainingJob) -> float:
    return job.shape.embedding_parameters * bytes_per_trained(job).gradients if job.method == "full" else 0.0


def _autocast_copies(job: TrainingJob) -> float:
    """Return the bytes of autocast's 16-bit copies of 32-bit weights.

    They are made once per forward pass and kept to its end, and longer where saved activations refer to them.
    """
    if job.precision != "bfloat16" or weight_bits(job) == 16:
        return 0.0
    split = job.num_gpus if job.sharding in ("tensor_parallel", "layers") else 1
    return 2.0 * job.shape.linear_parameters / split


def _gathered_in_loss(job: TrainingJob) -> float:
    """Return the bytes of gathered weights in the loss's backward pass.

    FSDP has gathered the head, and ahead of time the last layer; `fsdp_shard_grad_op` all weights; DeepSpeed as many as
    it may keep.
    """
    shape, size = job.shape, compute_bytes(job)
    head = 0 if job.objective in SCORING else shape.embedding_parameters
    if job.sharding == "fsdp_shard_grad_op":
        return float(size * shape.parameters)
    if job.sharding in FSDP and job.sharding != "fsdp_no_shard":
        return float(size * min(shape.parameters, head + shape.layer_parameters))
    if job.sharding == "zero3":
        return float(size * min(job.model_parameters, max(_MAX_LIVE_PARAMETERS, _largest_unit(job))))
    if job.sharding in ("zero1", "zero2") and job.accumulation > 1:
        # a bucket of the previous micro-batch
        return float(size * job.reduce_bucket)
    return 0.0


def _backward_buffers(job: TrainingJob) -> float:
    """Return the bytes of gathered weights, and of gradients being reduced, in the layers' backward pass."""
    shape, size, trained = job.shape, compute_bytes(job), job.trained_parameters
    share, largest = trained / shape.parameters, _largest_unit(job)
    if job.sharding in FSDP and job.sharding != "fsdp_no_shard":
        kept_head = 0 if shape.is_tied else shape.embedding_parameters
        gathered = shape.parameters if job.sharding == "fsdp_shard_grad_op" else 2 * largest + kept_head
        # gradients of this unit, and of the previous one, which is being reduced; or all, if accumulated unsharded
        unreduced = 2 * min(largest, shape.parameters) * share
        if job.accumulation > 1 and not job.reduces_each_micro_batch:
            unreduced = trained
        return size * (min(gathered, shape.parameters) + unreduced)
    if job.sharding in ("zero1", "zero2"):
        # DeepSpeed's buckets have their full size even for a small model; stage 2 fills one while it reduces the other,
        # and frees the previous micro-batch's later
        buckets = 1 if job.sharding == "zero1" else 2 if job.accumulation == 1 else 3
        return float(size * buckets * job.reduce_bucket)
    if job.sharding == "zero3":
        return _gathered_in_loss(job) + size * (largest + shape.hidden**2) * share
    return 0.0


def _largest_unit(job: TrainingJob) -> int:
    return max(job.shape.layer_parameters, job.shape.embedding_parameters)


def _step_temporaries(job: TrainingJob) -> float:
    """Return the temporary bytes of the optimizer's step; a fused kernel or an 8-bit optimizer needs none.

    DeepSpeed flattens the 32-bit gradients of its shard, under ZeRO 3 in groups. PyTorch's unfused AdamW makes the
    roots of the second moments: on a GPU for all parameters at once; on a CPU, and for sharded tensors, one tensor at a
    time, with a quotient of the same size.
    """
    updated = job.trained_parameters / job.num_gpus
    is_unfused = job.optimizer == "adamw"
    if job.sharding in DEEPSPEED and job.offload == "none":
        updated = min(updated, _STEP_GROUP) if job.sharding == "zero3" else updated
        roots = (1 if job.device == "cuda" else 2) if is_unfused else 0
        return 4.0 * updated * (1 + roots)
    if job.sharding == "tensor_parallel" and is_unfused:
        # one tensor at a time, as no kernel takes all sharded ones at once; the embedding is replicated
        return 8.0 * _largest_unit(job)
    return 0.0


def _generation(job: TrainingJob, any_moment: Moment) -> Moment:
    """Return the memory in generation: TRL generates the answers of a whole step at once, on a fully gathered model."""
    size, shape = compute_bytes(job), job.shape
    sequences = job.micro_batch * job.accumulation
    positions = job.length + job.max_new_tokens
    cache = cache_bytes(shape.layers, shape.key_value_width, sequences, positions, size)
    all_answers = replace(job, micro_batch=sequences, accumulation=1, max_new_tokens=0)
    is_sharded = job.sharding == "zero3" or (job.sharding in FSDP and job.sharding != "fsdp_no_shard")
    gathered = float(size * shape.parameters) if is_sharded else 0.0
    return replace(
        any_moment,
        name=GENERATION,
        activations=cache + layer_forward_bytes(all_answers),
        # logits of each sequence's last token, in the model's type and in 32 bits, and the sort for sampling
        logits=float(sequences * shape.vocabulary * (size + 3 * 4)),
        buffers=gathered,
    )

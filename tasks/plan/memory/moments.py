"""What is there at each moment of an optimizer step that may be the fullest one, item by item.

A pass goes forward, saving activations; takes the loss, while all of them are there; and goes back, giving them up
layer by layer as gradients come. The largest of the moments below is the peak. A first pass of a step has no gradients
before it: they are freed after each step, not set to 0. What is true of a library is said where it is used; all of it
was read off the allocator's record of real steps (benchmarks/memory_plan.py).
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
    """Bytes of one GPU at one moment; `buffers` are communication's, gathered and cast weights, and the optimizer's
    temporaries."""

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
    """Return the moments of a job of one GPU, in the order of time."""
    found = list(_first_to_last(job))
    if job.objective in ONLINE:
        found.insert(0, _generation(job, found[0]))
    return found


def _first_to_last(job: TrainingJob) -> Iterator[Moment]:
    before = _held(job)
    layers = job.shape.layers / job.num_gpus if job.sharding == "layers" else job.shape.layers
    layer = layer_activation_bytes(job)
    kept = checkpoint_bytes(job) if job.has_checkpointing else layer
    saved = layers * kept + last_norm_bytes(job)
    in_loss = before.buffers + _gathered_in_loss(job)
    casts = _autocast_copies(job)
    saved_casts = 0.0 if job.has_checkpointing else casts
    if casts:
        forward = saved + (layer_forward_bytes(job) if job.has_checkpointing else 0.0)
        yield replace(before, name=CASTS, activations=forward, logits=loss_forward_bytes(job), buffers=in_loss + casts)
    if job.has_reference:
        # the policy's pass is not over: what it saved waits for the loss
        yield replace(
            before,
            name=REFERENCE,
            activations=saved + layer_forward_bytes(job),
            logits=loss_forward_bytes(job),
            buffers=in_loss + saved_casts,
        )
    logits = loss_backward_bytes(job)
    yield replace(before, name=LOSS, activations=saved, logits=logits, buffers=in_loss + saved_casts)
    yield from _going_back(job, before, layers, kept, layer, saved_casts)
    whole = states_of(job).gradients if job.offload == "none" else _offloaded_gradients(job)
    yield replace(before, name=STEP, gradients=_at_step(job, whole), buffers=before.buffers + _step_temporaries(job))


def _going_back(
    job: TrainingJob, before: Moment, layers: float, kept: float, layer: float, saved_casts: float
) -> Iterator[Moment]:
    """Yield the last layer, which goes back first; the first; and what is left of the pass after it."""
    temporaries = layer_backward_bytes(job)
    recomputed = layer if job.has_checkpointing else 0.0
    buffers = before.buffers + _in_backward(job) + _dequantized_bytes(job)
    head, largest = head_gradient_bytes(job), _largest_map_bytes(job)
    if job.sharding in (*DEEPSPEED, *FSDP):
        # reduced as it comes: it waits in the buffers
        head = 0.0
    yield replace(
        before,
        name=LAST_LAYER,
        gradients=before.gradients + head + largest,
        activations=layers * kept + recomputed + temporaries,
        buffers=buffers + saved_casts,
    )
    whole, embedding = _after_pass(job, before), _embedding_gradient_bytes(job)
    yield replace(
        before,
        name=FIRST_LAYER,
        gradients=max(before.gradients + largest, whole - embedding),
        activations=layer + (checkpoint_bytes(job) if job.has_checkpointing else 0.0) + temporaries,
        buffers=buffers,
    )
    # the embedding's gradient is as large as itself, however few words the rows have, and is added to one that is there
    comes_twice = bool(before.gradients) or job.shape.is_tied or job.sharding in (*DEEPSPEED, *FSDP)
    yield replace(before, name=EMBEDDING, gradients=whole + (embedding if comes_twice else 0.0), buffers=buffers)


def _held(job: TrainingJob) -> Moment:
    """Return what is there when a pass begins, the last of a step: gradients where others were before it."""
    states = states_of(job)
    weights, optimizer = states.weights + reference_bytes(job), states.optimizer
    gradients = _after_pass(job, None) if job.accumulation > 1 else 0.0
    buffers = 0.0
    if job.sharding == "zero3":
        # DeepSpeed keeps a buffer for the gradients of its part, and one of h x h numbers for what it reduces
        gradients = states.gradients
        buffers = float(compute_bytes(job) * job.shape.hidden**2)
    if job.num_gpus > 1 and job.sharding in ("none", "fsdp_no_shard"):
        # DDP's buckets are a second copy of all gradients, and stay
        buffers = 4.0 * job.trained_parameters
    if job.offload != "none":
        optimizer, gradients = 0.0, _offloaded_gradients(job) if job.accumulation > 1 else 0.0
    if job.offload == "optimizer_and_parameters":
        weights = reference_bytes(job)
    return Moment("", weights, gradients, optimizer, buffers=buffers)


def _offloaded_gradients(job: TrainingJob) -> float:
    return states_of(job).gradients if job.sharding == "zero1" else 0.0


def _after_pass(job: TrainingJob, before: Moment | None) -> float:
    """Return the gradients when a pass ends; with `before`, those of passes before it are among them."""
    if job.offload != "none":
        return _offloaded_gradients(job)
    whole = states_of(job).gradients
    if job.sharding == "zero1" and job.accumulation == 1:
        # reduced as they come, and only its own part is kept
        return whole / job.num_gpus
    if job.sharding == "zero2" and before is not None and before.gradients:
        # a pass's own part, before it is added to that of the passes before
        return 2 * whole
    return whole


def _at_step(job: TrainingJob, whole: float) -> float:
    """ZeRO 1 has its own part alone by then."""
    return whole / job.num_gpus if job.sharding == "zero1" and job.offload == "none" else whole


def _largest_map_bytes(job: TrainingJob) -> float:
    """Return the gradient of the largest linear map of a layer, which comes while the layer's activations are there."""
    if job.method != "full":
        return 0.0
    largest = max((each.inputs * each.outputs for each in job.shape.linear_maps), default=0)
    return largest * bytes_per_trained(job).gradients


def _dequantized_bytes(job: TrainingJob) -> float:
    """Return the largest quantized map in the computation's type: bitsandbytes makes it anew to multiply by it."""
    if job.method not in QUANTIZED_METHODS:
        return 0.0
    return float(compute_bytes(job) * max((each.inputs * each.outputs for each in job.shape.linear_maps), default=0))


def _embedding_gradient_bytes(job: TrainingJob) -> float:
    return job.shape.embedding_parameters * bytes_per_trained(job).gradients if job.method == "full" else 0.0


def _autocast_copies(job: TrainingJob) -> float:
    """Return autocast's 16-bit copies of 32-bit weights, made once for a pass: kept to its end and by what is saved."""
    if job.precision != "bfloat16" or weight_bits(job) == 16:
        return 0.0
    split = job.num_gpus if job.sharding in ("tensor_parallel", "layers") else 1
    return 2.0 * job.shape.linear_parameters / split


def _gathered_in_loss(job: TrainingJob) -> float:
    """Return the gathered weights while the loss goes back. FSDP has the head, and the last layer, which it gathers
    ahead; or all of them; DeepSpeed as many as it may keep."""
    shape, size = job.shape, compute_bytes(job)
    head = 0 if job.objective in SCORING else shape.embedding_parameters
    if job.sharding == "fsdp_shard_grad_op":
        return float(size * shape.parameters)
    if job.sharding in FSDP and job.sharding != "fsdp_no_shard":
        return float(size * min(shape.parameters, head + shape.layer_parameters))
    if job.sharding == "zero3":
        return float(size * min(job.model_parameters, max(_MAX_LIVE_PARAMETERS, _largest_unit(job))))
    if job.sharding in ("zero1", "zero2") and job.accumulation > 1:
        # a bucket of the pass before
        return float(size * job.reduce_bucket)
    return 0.0


def _in_backward(job: TrainingJob) -> float:
    """Return gathered weights, and gradients on their way, while layers go back."""
    shape, size, trained = job.shape, compute_bytes(job), job.trained_parameters
    share, largest = trained / shape.parameters, _largest_unit(job)
    if job.sharding in FSDP and job.sharding != "fsdp_no_shard":
        kept_head = 0 if shape.is_tied else shape.embedding_parameters
        gathered = shape.parameters if job.sharding == "fsdp_shard_grad_op" else 2 * largest + kept_head
        # of this unit, and of the one before that is being reduced; or of all, when passes add them up undivided
        unreduced = 2 * min(largest, shape.parameters) * share
        if job.accumulation > 1 and not job.reduces_each_pass:
            unreduced = trained
        return size * (min(gathered, shape.parameters) + unreduced)
    if job.sharding in ("zero1", "zero2"):
        # DeepSpeed's buckets have their full size however small the model is; stage 2 fills one while the other is
        # reduced, and drops those of the pass before later
        buckets = 1 if job.sharding == "zero1" else 2 if job.accumulation == 1 else 3
        return float(size * buckets * job.reduce_bucket)
    if job.sharding == "zero3":
        return _gathered_in_loss(job) + size * (largest + shape.hidden**2) * share
    return 0.0


def _largest_unit(job: TrainingJob) -> int:
    return max(job.shape.layer_parameters, job.shape.embedding_parameters)


def _step_temporaries(job: TrainingJob) -> float:
    """Return what the optimizer makes for a moment. A fused kernel, and an 8-bit optimizer, nothing. DeepSpeed flattens
    the gradients of its part, in 32 bits, by groups under ZeRO 3; PyTorch's unfused AdamW has the root of the second
    moments, on a GPU of all that it updates; on a CPU, and of divided tensors, of one tensor, and also divided."""
    own = job.trained_parameters / job.num_gpus
    is_unfused = job.optimizer == "adamw"
    if job.sharding in DEEPSPEED and job.offload == "none":
        own = min(own, _STEP_GROUP) if job.sharding == "zero3" else own
        roots = (1 if job.device == "cuda" else 2) if is_unfused else 0
        return 4.0 * own * (1 + roots)
    if job.sharding == "tensor_parallel" and is_unfused:
        # one tensor after the other, as divided ones have no kernel for all at once; the embedding is whole
        return 8.0 * _largest_unit(job)
    return 0.0


def _generation(job: TrainingJob, any_moment: Moment) -> Moment:
    """TRL generates the answers of all passes of a step at once, after it has gathered a divided model whole."""
    size, shape = compute_bytes(job), job.shape
    sequences = job.micro_batch * job.accumulation
    positions = job.length + job.max_new_tokens
    cache = cache_bytes(shape.layers, shape.key_value_width, sequences, positions, size)
    one_pass = replace(job, micro_batch=sequences, accumulation=1, max_new_tokens=0)
    is_divided = job.sharding == "zero3" or (job.sharding in FSDP and job.sharding != "fsdp_no_shard")
    gathered = float(size * shape.parameters) if is_divided else 0.0
    return replace(
        any_moment,
        name=GENERATION,
        activations=cache + layer_forward_bytes(one_pass),
        # of the last token of each sequence, in the model's type and in 32 bits, and what sampling sorts of them
        logits=float(sequences * shape.vocabulary * (size + 3 * 4)),
        buffers=gathered,
    )

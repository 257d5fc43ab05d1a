"""Counts what each GPU sends to others in an optimizer step: the collectives of each sharding, and their bytes.

In a ring of N GPUs, each sends (N-1)/N of a tensor to all-gather or to reduce-scatter it, and twice that to all-reduce
it. With P parameters of which T are trained, b bytes per computed number, and a step of several micro-batches:

none, fsdp_no_shard   all-reduce 4 T, once a step (DDP reduces gradients in the type of the weights)
zero1                 all-reduce b T and all-gather b T, once a step
zero2                 for each micro-batch all-reduce b T; all-gather b T once a step
zero3, fsdp_full_shard    for each micro-batch all-gather b P twice and reduce-scatter b T
fsdp_shard_grad_op    for each micro-batch all-gather b P and reduce-scatter b T
fsdp_hybrid_shard     fsdp_full_shard within a machine, and all-reduce b T / G among the machines, with G GPUs in each
tensor_parallel       for each micro-batch and layer all-reduce the activations twice in the forward pass and five times
                      in the backward pass (once for each of q, k, v, gate and up); all-gather the head, and all-reduce
                      the gradient of its input
layers                for each micro-batch send the activations at one boundary forward, and their gradient backward

The second gather skips what is left from the first: under FSDP the head and last norm, which accelerate does not
reshard; under ZeRO 3 the parameters that are used again within `stage3_max_reuse_distance`.
ZeRO: https://arxiv.org/abs/1910.02054, section 7, where stages 1 and 2 reduce-scatter; DeepSpeed all-reduces instead.
FSDP: https://arxiv.org/abs/2304.11277. Tensor parallelism: https://arxiv.org/abs/1909.08053, which reduces twice
in the backward pass; transformers reduces for each matrix, and TRL's loss reads the whole head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.memory.peak import compute_bytes, weight_bits

Kind = Literal["all_reduce", "all_gather", "reduce_scatter", "send"]
Phase = Literal["forward", "backward", "step"]
_DDP_BUCKET_BYTES = 25 * 2**20  # PyTorch's default of bucket_cap_mb
_ZERO_GATHER_BUCKET = 500_000_000  # DeepSpeed's default of allgather_bucket_size, in numbers
_ZERO_REUSE_DISTANCE = 10**9  # DeepSpeed's default of stage3_max_reuse_distance, in numbers


@dataclass(frozen=True)
class Collectives:
    """`calls` operations of one kind in an optimizer step, over whole tensors of `num_bytes` in total.

    They run among `ranks` GPUs, `ranks_per_node` of them on a machine. `is_overlapped`: they can run while the GPU
    computes, because the next computation does not need their result at once.
    """

    kind: Kind
    phase: Phase
    num_bytes: float
    calls: int
    ranks: int
    ranks_per_node: int
    is_overlapped: bool = True

    @property
    def sent_bytes(self) -> float:
        """Bytes that one GPU sends in the step."""
        return sent_bytes(self.kind, self.num_bytes, self.ranks)

    @property
    def num_nodes(self) -> int:
        """Machines in the ring."""
        return -(-self.ranks // self.ranks_per_node)


def sent_bytes(kind: Kind, num_bytes: float, ranks: int) -> float:
    """Return the bytes that one of `ranks` GPUs sends in ring collectives over tensors of `num_bytes` in total."""
    if ranks == 1:
        return 0.0
    if kind == "send":
        return num_bytes
    rounds = 2 if kind == "all_reduce" else 1
    return rounds * (ranks - 1) / ranks * num_bytes


def step_collectives(job: TrainingJob, on_paper: bool = False) -> list[Collectives]:
    """Return the collectives of one optimizer step of the job; none for one GPU.

    `on_paper`: ZeRO 1 and 2 and tensor parallelism as published, instead of as DeepSpeed and transformers do them.
    """
    if job.num_gpus == 1:
        return []
    match job.sharding:
        case "none" | "fsdp_no_shard":
            num_bytes = 4.0 * job.trained_parameters
            return [_among_all_gpus(job, "all_reduce", "backward", num_bytes, math.ceil(num_bytes / _DDP_BUCKET_BYTES))]
        case "zero1" | "zero2":
            return _zero_collectives(job, on_paper)
        case "tensor_parallel":
            return _tensor_parallel_collectives(job, on_paper)
        case "layers":
            num_bytes = float(job.accumulation * job.tokens * job.shape.hidden * weight_bits(job) // 8)
            return [
                Collectives("send", phase, num_bytes, job.accumulation, job.num_gpus, job.gpus_per_node, False)
                for phase in ("forward", "backward")
            ]
        case _:
            return _gathering_collectives(job)


def _among_all_gpus(
    job: TrainingJob, kind: Kind, phase: Phase, num_bytes: float, calls: int, is_overlapped: bool = True
) -> Collectives:
    per_node = min(job.num_gpus, job.gpus_per_node)
    return Collectives(kind, phase, num_bytes, calls, job.num_gpus, per_node, is_overlapped)


def _zero_collectives(job: TrainingJob, on_paper: bool) -> list[Collectives]:
    trained = job.trained_parameters
    num_bytes = float(compute_bytes(job) * trained)
    reductions = job.accumulation if job.sharding == "zero2" else 1
    kind: Kind = "reduce_scatter" if on_paper else "all_reduce"
    return [
        _among_all_gpus(
            job, kind, "backward", reductions * num_bytes, reductions * math.ceil(trained / job.reduce_bucket)
        ),
        # every GPU has updated its shard, and the next forward pass needs all weights
        _among_all_gpus(job, "all_gather", "step", num_bytes, math.ceil(trained / _ZERO_GATHER_BUCKET), False),
    ]


def _gathering_collectives(job: TrainingJob) -> list[Collectives]:
    """Return the collectives that gather parameters unit by unit: each layer, the embedding, the last norm with the
    head."""
    ranks = job.num_gpus if job.sharding != "fsdp_hybrid_shard" else min(job.num_gpus, job.gpus_per_node)
    per_node = min(ranks, job.gpus_per_node)
    shape, size, reductions = job.shape, compute_bytes(job), job.accumulation
    gathered = shape.parameters + (job.trained_parameters if job.method != "full" else 0)
    calls = job.accumulation * (shape.layers + 1 + (not shape.is_tied))
    num_bytes = float(job.accumulation * size * gathered)
    collectives = [Collectives("all_gather", "forward", num_bytes, calls, ranks, per_node)]
    if job.sharding != "fsdp_shard_grad_op":
        kept = shape.embedding_parameters + shape.hidden
        if job.sharding == "zero3":
            # a layer at distance x from the end of the forward pass is used again after 2 x
            kept = min(gathered, _ZERO_REUSE_DISTANCE // 2)
        gathered_again = float(job.accumulation * size * (gathered - kept))
        collectives.append(
            Collectives("all_gather", "backward", gathered_again, calls - job.accumulation, ranks, per_node)
        )
    if job.sharding != "zero3" and not job.reduces_each_micro_batch:
        reductions, calls = 1, calls // job.accumulation
    reduced = float(reductions * size * job.trained_parameters)
    collectives.append(Collectives("reduce_scatter", "backward", reduced, calls, ranks, per_node))
    copies = job.num_gpus // ranks
    if copies > 1:
        collectives.append(Collectives("all_reduce", "backward", reduced / ranks, calls, copies, 1))
    return collectives


def _tensor_parallel_collectives(job: TrainingJob, on_paper: bool) -> list[Collectives]:
    activation_bytes = float(job.tokens * job.shape.hidden * compute_bytes(job))
    layers = job.accumulation * job.shape.layers
    backward = (2 if on_paper else 5) + (2 if job.has_checkpointing else 0)

    def reduced(phase: Phase, calls: int) -> Collectives:
        # the next matrix product waits for the result
        return _among_all_gpus(job, "all_reduce", phase, calls * activation_bytes, calls, False)

    if on_paper:
        return [reduced("forward", 2 * layers), reduced("backward", backward * layers)]
    head = float(job.accumulation * job.shape.embedding_parameters * weight_bits(job) // 8)
    return [
        reduced("forward", 2 * layers),
        _among_all_gpus(job, "all_gather", "forward", head, job.accumulation, False),
        reduced("backward", backward * layers + job.accumulation),
    ]

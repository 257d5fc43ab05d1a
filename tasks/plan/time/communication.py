"""What each GPU sends to others in an optimizer step, by sharding: the collectives, their bytes and their number.

A ring of N sends (N-1)/N of a tensor to all-gather or to reduce-scatter it, and twice that to all-reduce it. With P
parameters of which T are trained, b bytes in a number of the computation, and A passes in a step:

none, fsdp_no_shard   all-reduce 4 T, once a step (DDP reduces gradients in the type of the weights)
zero1                 all-reduce b T once a step, all-gather b T
zero2                 all-reduce b T in each pass, all-gather b T
zero3, fsdp_full_shard    in each pass all-gather b P twice and reduce-scatter b T
fsdp_shard_grad_op    in each pass all-gather b P and reduce-scatter b T
fsdp_hybrid_shard     fsdp_full_shard within a machine, and all-reduce b T / G among the machines, G GPUs in each
tensor_parallel       in each pass and layer all-reduce the activations twice forward, five times backward (q, k, v,
                      gate and up each for itself); all-gather the head, and all-reduce its input's gradient
layers                in each pass the activations of one boundary forward and their gradient backward

The second gather leaves out what is still there from the first: the head and last norm under FSDP, which accelerate
does not reshard, and under ZeRO 3 what comes back within `stage3_max_reuse_distance`.
ZeRO: https://arxiv.org/abs/1910.02054, section 7, where stages 1 and 2 reduce-scatter; DeepSpeed all-reduces instead.
FSDP: https://arxiv.org/abs/2304.11277. Tensor parallelism: https://arxiv.org/abs/1909.08053, which reduces twice
backward; transformers reduces for each matrix, and TRL's loss reads the whole head.
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
_ZERO_BUCKET = 200_000_000  # reduce_bucket_size of configs/deepspeed, in numbers
_ZERO_GATHER_BUCKET = 500_000_000  # DeepSpeed's default of allgather_bucket_size, in numbers
_ZERO_REUSE_DISTANCE = 10**9  # DeepSpeed's default of stage3_max_reuse_distance, in numbers


@dataclass(frozen=True)
class Collectives:
    """`calls` operations of one kind in an optimizer step, `num_bytes` of whole tensors in all, among `ranks` GPUs,
    `ranks_per_node` of them on a machine.

    `is_overlapped`: it can go on while the GPU computes; what computes next does not wait for it at once.
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
        """Machines that the ring passes through."""
        return -(-self.ranks // self.ranks_per_node)


def sent_bytes(kind: Kind, num_bytes: float, ranks: int) -> float:
    """Return the bytes that one of `ranks` GPUs sends in ring collectives over tensors of `num_bytes` in all."""
    if ranks == 1:
        return 0.0
    if kind == "send":
        return num_bytes
    rounds = 2 if kind == "all_reduce" else 1
    return rounds * (ranks - 1) / ranks * num_bytes


def step_collectives(job: TrainingJob, on_paper: bool = False) -> list[Collectives]:
    """Return what the job's GPUs exchange in one optimizer step; nothing for one GPU.

    `on_paper`: ZeRO 1 and 2 and tensor parallelism as published, and not as DeepSpeed and transformers do them.
    """
    if job.num_gpus == 1:
        return []
    match job.sharding:
        case "none" | "fsdp_no_shard":
            num_bytes = 4.0 * job.trained_parameters
            return [_over_all(job, "all_reduce", "backward", num_bytes, math.ceil(num_bytes / _DDP_BUCKET_BYTES))]
        case "zero1" | "zero2":
            return _zero(job, on_paper)
        case "tensor_parallel":
            return _tensor_parallel(job, on_paper)
        case "layers":
            num_bytes = float(job.accumulation * job.tokens * job.shape.hidden * weight_bits(job) // 8)
            return [
                Collectives("send", phase, num_bytes, job.accumulation, job.num_gpus, job.gpus_per_node, False)
                for phase in ("forward", "backward")
            ]
        case _:
            return _gathered(job)


def _over_all(
    job: TrainingJob, kind: Kind, phase: Phase, num_bytes: float, calls: int, is_overlapped: bool = True
) -> Collectives:
    per_node = min(job.num_gpus, job.gpus_per_node)
    return Collectives(kind, phase, num_bytes, calls, job.num_gpus, per_node, is_overlapped)


def _zero(job: TrainingJob, on_paper: bool) -> list[Collectives]:
    trained = job.trained_parameters
    num_bytes = float(compute_bytes(job) * trained)
    reductions = job.accumulation if job.sharding == "zero2" else 1
    kind: Kind = "reduce_scatter" if on_paper else "all_reduce"
    return [
        _over_all(job, kind, "backward", reductions * num_bytes, reductions * math.ceil(trained / _ZERO_BUCKET)),
        # every GPU has updated its part, and the next pass needs all
        _over_all(job, "all_gather", "step", num_bytes, math.ceil(trained / _ZERO_GATHER_BUCKET), False),
    ]


def _gathered(job: TrainingJob) -> list[Collectives]:
    """Parameters gathered unit by unit: each layer, the embedding, and the last norm with the head."""
    within = job.num_gpus if job.sharding != "fsdp_hybrid_shard" else min(job.num_gpus, job.gpus_per_node)
    per_node = min(within, job.gpus_per_node)
    shape, size, passes = job.shape, compute_bytes(job), job.accumulation
    held = shape.parameters + (job.trained_parameters if job.method != "full" else 0)
    calls = passes * (shape.layers + 1 + (not shape.is_tied))
    found = [Collectives("all_gather", "forward", float(passes * size * held), calls, within, per_node)]
    if job.sharding != "fsdp_shard_grad_op":
        kept = shape.embedding_parameters + shape.hidden
        if job.sharding == "zero3":
            # a layer at distance x from the end of the forward pass comes back after 2 x
            kept = min(held, _ZERO_REUSE_DISTANCE // 2)
        again = float(passes * size * (held - kept))
        found.append(Collectives("all_gather", "backward", again, calls - passes, within, per_node))
    if job.sharding != "zero3" and not job.reduces_each_pass:
        passes, calls = 1, calls // passes
    reduced = float(passes * size * job.trained_parameters)
    found.append(Collectives("reduce_scatter", "backward", reduced, calls, within, per_node))
    copies = job.num_gpus // within
    if copies > 1:
        found.append(Collectives("all_reduce", "backward", reduced / within, calls, copies, 1))
    return found


def _tensor_parallel(job: TrainingJob, on_paper: bool) -> list[Collectives]:
    one = float(job.tokens * job.shape.hidden * compute_bytes(job))
    layers = job.accumulation * job.shape.layers
    backward = (2 if on_paper else 5) + (2 if job.has_checkpointing else 0)

    def reduced(phase: Phase, calls: int) -> Collectives:
        # the next matrix product waits for it
        return _over_all(job, "all_reduce", phase, calls * one, calls, False)

    if on_paper:
        return [reduced("forward", 2 * layers), reduced("backward", backward * layers)]
    head = float(job.accumulation * job.shape.embedding_parameters * weight_bits(job) // 8)
    return [
        reduced("forward", 2 * layers),
        _over_all(job, "all_gather", "forward", head, job.accumulation, False),
        reduced("backward", backward * layers + job.accumulation),
    ]

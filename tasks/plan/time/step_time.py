"""Estimates the seconds of an optimizer step: arithmetic, communication that it does not hide, and the update.

    step = forward + backward + update
    forward, backward = max(arithmetic, overlapped communication) + communication that blocks
    update = bytes of the optimizer / memory bandwidth, plus the gather of ZeRO 1 and 2

Arithmetic takes FLOPs / (peak x `GpuType.compute_utilization`), or the time to read the weights if that is longer.
Assumptions: collectives overlap with computation, at no cost to it, wherever the library starts them ahead (all except
those of tensor and layer parallelism, and ZeRO's gather after the update). Links reach `LINK_EFFICIENCY` of their
nominal speed. Collectives run in rings, whose hops take NCCL's constants for its Simple protocol (src/graph/tuning.cc
of https://github.com/NVIDIA/nccl). No rank is slower than the others. Reading data, evaluations and checkpoints take no
time.
"""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema.cluster import DEEPSPEED
from tasks.plan.hardware.gpus import GpuType
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.memory.peak import bytes_per_trained, compute_bytes, shard_counts
from tasks.plan.time.communication import Collectives, Phase, step_collectives

LINK_EFFICIENCY = 0.8
HOST_MEMORY_BANDWIDTH = 25e9
"""Bytes per second of host memory that DeepSpeed's CPU optimizer reaches per GPU; an assumption."""
_NVLINK_HOP_SECONDS, _NETWORK_HOP_SECONDS = 3.4e-6, 14e-6


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, and the rates that follow from them.

    `communication` is the time of all collectives, `exposed_communication` the part that the arithmetic does not hide;
    `host_transfer` is the time of transfers over PCI Express with offload.
    """

    compute: float
    communication: float
    exposed_communication: float
    optimizer: float
    host_transfer: float

    @property
    def total(self) -> float:
        """Seconds of the step."""
        return self.compute + self.exposed_communication + self.optimizer + self.host_transfer


def _attention_flops(job: TrainingJob) -> float:
    return 2.0 * job.shape.layers * job.shape.query_width * job.length**2 * job.micro_batch


def micro_batch_flops(job: TrainingJob) -> tuple[float, float]:
    """Return the FLOPs that the rows of a micro-batch need forward and backward, without recomputed activations.

    Each linear weight takes per token 2 in the forward pass, 2 for the gradient of its input, and 2 for its own
    gradient if it is trained. Causal attention takes 6 x layers x hidden x length^2 per row; the head is counted for
    every token. The convention is that of docs/throughput.md.
    """
    shape, attention = job.shape, _attention_flops(job)
    # in a mixture of experts, only the experts that a token passes through
    weights = shape.active_linear_parameters + shape.embedding_parameters
    adapter = 0 if job.method == "full" else job.trained_parameters
    forward = 2.0 * (weights + adapter) * job.tokens + attention
    trained = weights if job.method == "full" else adapter
    return forward, 2.0 * (weights + adapter + trained) * job.tokens + 2 * attention


def recomputed_flops(job: TrainingJob) -> float:
    """Return the FLOPs that checkpointing adds: one more forward pass of the layers."""
    if not job.has_checkpointing:
        return 0.0
    return 2.0 * job.shape.active_linear_parameters * job.tokens + _attention_flops(job)


def bus_bandwidth(gpu: GpuType, ranks: int, ranks_per_node: int) -> float:
    """Return the bytes per second that each GPU sends in a ring. Between machines, the rings of a machine's GPUs share
    its network adapters, of which there is one per GPU."""
    if ranks <= ranks_per_node:
        return LINK_EFFICIENCY * gpu.gpu_link_bandwidth
    return LINK_EFFICIENCY * min(gpu.gpu_link_bandwidth, ranks_per_node * gpu.network_bandwidth)


def latency_seconds(collectives: Collectives) -> float:
    """Return the seconds of latency in the hops around the ring, for all calls."""
    if collectives.kind == "send":
        return collectives.calls * _NVLINK_HOP_SECONDS
    network_hops = collectives.num_nodes - 1
    nvlink_hops = collectives.ranks - 1 - network_hops
    rounds = 2 if collectives.kind == "all_reduce" else 1
    return collectives.calls * rounds * (nvlink_hops * _NVLINK_HOP_SECONDS + network_hops * _NETWORK_HOP_SECONDS)


def collective_seconds(collectives: Collectives, gpu: GpuType) -> float:
    """Return the seconds of the collectives when nothing else uses the links."""
    bandwidth = bus_bandwidth(gpu, collectives.ranks, collectives.ranks_per_node)
    return collectives.sent_bytes / bandwidth + latency_seconds(collectives)


def estimate_step_time(job: TrainingJob, gpu: GpuType) -> StepTime:
    """Return the expected seconds of one optimizer step on GPUs of one type, without checking that the job fits."""
    forward, backward = micro_batch_flops(job)
    split = job.num_gpus if job.sharding == "tensor_parallel" else 1
    speed = gpu.peak_flops * gpu.compute_utilization * split / job.accumulation
    # short rows wait for the weights, which each micro-batch reads once forward and twice backward
    read_seconds = job.accumulation * compute_bytes(job) * job.shape.parameters / split / gpu.memory_bandwidth
    compute_seconds: dict[Phase, float] = {
        "forward": max(forward / speed, read_seconds),
        "backward": max((backward + recomputed_flops(job)) / speed, 2 * read_seconds),
        "step": 0.0,
    }
    collectives = step_collectives(job)
    exposed = sum(
        [_exposed_seconds(collectives, phase, compute, job, gpu) for phase, compute in compute_seconds.items()]
    )
    return StepTime(
        compute=sum(compute_seconds.values()),
        communication=sum(collective_seconds(collective, gpu) for collective in collectives),
        exposed_communication=exposed,
        optimizer=_update_seconds(job, gpu),
        host_transfer=_host_seconds(job, gpu),
    )


def _exposed_seconds(
    collectives: list[Collectives], phase: Phase, compute_seconds: float, job: TrainingJob, gpu: GpuType
) -> float:
    in_phase = [collective for collective in collectives if collective.phase == phase]
    blocking = sum(collective_seconds(collective, gpu) for collective in in_phase if not collective.is_overlapped)
    overlapped = sum(collective_seconds(collective, gpu) for collective in in_phase if collective.is_overlapped)
    if job.sharding in ("none", "fsdp_no_shard", "zero1"):
        # gradients are reduced in the last micro-batch only, so only its arithmetic hides the reduction
        compute_seconds /= job.accumulation
    return blocking + max(0.0, overlapped - compute_seconds)


def _updated_parameters(job: TrainingJob) -> float:
    """Return how many parameters one GPU's optimizer updates, or with offload the host's optimizer per GPU."""
    return job.trained_parameters / shard_counts(job.sharding, job.num_gpus, job.gpus_per_node)[2]


def _update_seconds(job: TrainingJob, gpu: GpuType) -> float:
    moments = bytes_per_trained(job).optimizer - (4 if job.sharding in DEEPSPEED else 0)
    # 32-bit weights, 32-bit gradients and the moments are read; all except the gradients are written
    moved_bytes = _updated_parameters(job) * (4 + 4 + moments + 4 + moments)
    return moved_bytes / (HOST_MEMORY_BANDWIDTH if job.offload != "none" else gpu.memory_bandwidth)


def _host_seconds(job: TrainingJob, gpu: GpuType) -> float:
    """Return the seconds of transfers between GPU and host memory.

    Each micro-batch sends gradients to the host, and each step brings updated weights back once; offloaded parameters
    come to the GPU twice per micro-batch.
    """
    if job.offload == "none":
        return 0.0
    size = compute_bytes(job)
    gradients = job.accumulation * size * _updated_parameters(job)
    weights = size * _updated_parameters(job)
    if job.offload == "optimizer_and_parameters":
        weights = 2 * job.accumulation * size * job.shape.parameters / job.num_gpus
    return (gradients + weights) / (LINK_EFFICIENCY * gpu.host_bandwidth)

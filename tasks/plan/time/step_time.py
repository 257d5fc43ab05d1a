"""How long an optimizer step takes: arithmetic, what of the communication it does not hide, and the update.

    step = forward + backward + update
    forward, backward = max(arithmetic, overlapped communication) + communication that is waited for
    update = bytes of the optimizer / memory bandwidth, and the gather of ZeRO 1 and 2

Arithmetic is FLOPs / (peak x `GpuType.compute_utilization`), or the reading of the weights where that takes longer.
Assumed: collectives run while the GPU computes wherever
the library starts them ahead (all but those of tensor and layer parallelism, and ZeRO's gather after the update), at no
cost to the arithmetic; links reach `LINK_EFFICIENCY` of what is printed; rings, whose hops each take NCCL's own
constants for its Simple protocol (src/graph/tuning.cc of https://github.com/NVIDIA/nccl); no rank is slower than the
others; reading data, evaluations and checkpoints take no time.
"""

from __future__ import annotations

from dataclasses import dataclass

from configs.schema.cluster import DEEPSPEED
from tasks.plan.hardware.gpus import GpuType
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.memory.peak import bytes_per_trained, compute_bytes, divisors
from tasks.plan.time.communication import Collectives, Phase, step_collectives

LINK_EFFICIENCY = 0.8
HOST_MEMORY_BANDWIDTH = 25e9
"""Bytes a second of host memory for each GPU's share of DeepSpeed's CPU optimizer; an assumption."""
_NVLINK_HOP_SECONDS, _NETWORK_HOP_SECONDS = 3.4e-6, 14e-6


@dataclass(frozen=True)
class StepTime:
    """Seconds of one optimizer step, and what follows from them.

    `communication` is all that is sent, `exposed_communication` what of it the arithmetic does not hide;
    `host_transfer` is over PCI Express, under offload.
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


def pass_flops(job: TrainingJob) -> tuple[float, float]:
    """Return the FLOPs that the rows of one pass need forward and backward; recomputed activations count nothing.

    2 for each linear weight and token forward, 2 for the gradient of the input, 2 for that of the weight where it is
    trained; causal attention 6 x layers x hidden x length^2 a row; the head for every token. The convention is that of
    docs/throughput.md.
    """
    shape, attention = job.shape, _attention_flops(job)
    # of a mixture of experts those that a token passes through
    weights = shape.active_linear_parameters + shape.embedding_parameters
    adapter = 0 if job.method == "full" else job.trained_parameters
    forward = 2.0 * (weights + adapter) * job.tokens + attention
    of_weights = weights if job.method == "full" else adapter
    return forward, 2.0 * (weights + adapter + of_weights) * job.tokens + 2 * attention


def recomputed_flops(job: TrainingJob) -> float:
    """Return the FLOPs of a pass that checkpointing adds: the layers' forward pass once more."""
    if not job.has_checkpointing:
        return 0.0
    return 2.0 * job.shape.active_linear_parameters * job.tokens + _attention_flops(job)


def bus_bandwidth(gpu: GpuType, ranks: int, ranks_per_node: int) -> float:
    """Return the bytes a second that each GPU sends in a ring: over machines, the rings of a machine's GPUs share its
    network adapters, one for each."""
    if ranks <= ranks_per_node:
        return LINK_EFFICIENCY * gpu.gpu_link_bandwidth
    return LINK_EFFICIENCY * min(gpu.gpu_link_bandwidth, ranks_per_node * gpu.network_bandwidth)


def latency_seconds(collectives: Collectives) -> float:
    """Return the seconds of the hops around the ring, for all calls."""
    if collectives.kind == "send":
        return collectives.calls * _NVLINK_HOP_SECONDS
    between = collectives.num_nodes - 1
    within = collectives.ranks - 1 - between
    rounds = 2 if collectives.kind == "all_reduce" else 1
    return collectives.calls * rounds * (within * _NVLINK_HOP_SECONDS + between * _NETWORK_HOP_SECONDS)


def collective_seconds(collectives: Collectives, gpu: GpuType) -> float:
    """Return how long the collectives take when nothing else uses the links."""
    bandwidth = bus_bandwidth(gpu, collectives.ranks, collectives.ranks_per_node)
    return collectives.sent_bytes / bandwidth + latency_seconds(collectives)


def estimate_step_time(job: TrainingJob, gpu: GpuType) -> StepTime:
    """Return the expected seconds of one optimizer step on GPUs of one kind; whether it fits is not asked."""
    forward, backward = pass_flops(job)
    split = job.num_gpus if job.sharding == "tensor_parallel" else 1
    speed = gpu.peak_flops * gpu.compute_utilization * split / job.accumulation
    # short rows wait for the weights, which each pass reads once forward and twice backward
    read = job.accumulation * compute_bytes(job) * job.shape.parameters / split / gpu.memory_bandwidth
    computes: dict[Phase, float] = {
        "forward": max(forward / speed, read),
        "backward": max((backward + recomputed_flops(job)) / speed, 2 * read),
        "step": 0.0,
    }
    collectives = step_collectives(job)
    exposed = sum([_exposed(collectives, phase, seconds, job, gpu) for phase, seconds in computes.items()])
    return StepTime(
        compute=sum(computes.values()),
        communication=sum(collective_seconds(each, gpu) for each in collectives),
        exposed_communication=exposed,
        optimizer=_update_seconds(job, gpu),
        host_transfer=_host_seconds(job, gpu),
    )


def _exposed(
    collectives: list[Collectives], phase: Phase, compute_seconds: float, job: TrainingJob, gpu: GpuType
) -> float:
    own = [each for each in collectives if each.phase == phase]
    waited = sum(collective_seconds(each, gpu) for each in own if not each.is_overlapped)
    hidden = sum(collective_seconds(each, gpu) for each in own if each.is_overlapped)
    if job.sharding in ("none", "fsdp_no_shard", "zero1"):
        # gradients are reduced in the last pass only, and only its arithmetic hides it
        compute_seconds /= job.accumulation
    return waited + max(0.0, hidden - compute_seconds)


def _updated_parameters(job: TrainingJob) -> float:
    """Return how many parameters one GPU's optimizer, or its share of the host's, updates."""
    return job.trained_parameters / divisors(job.sharding, job.num_gpus, job.gpus_per_node)[2]


def _update_seconds(job: TrainingJob, gpu: GpuType) -> float:
    moments = bytes_per_trained(job).optimizer - (4 if job.sharding in DEEPSPEED else 0)
    # weights and gradients of 32 bits and the moments are read, all but the gradients are written
    moved = _updated_parameters(job) * (4 + 4 + moments + 4 + moments)
    return moved / (HOST_MEMORY_BANDWIDTH if job.offload != "none" else gpu.memory_bandwidth)


def _host_seconds(job: TrainingJob, gpu: GpuType) -> float:
    """Gradients go down in each pass and updated weights up once; offloaded parameters go up twice a pass."""
    if job.offload == "none":
        return 0.0
    size = compute_bytes(job)
    gradients = job.accumulation * size * _updated_parameters(job)
    weights = size * _updated_parameters(job)
    if job.offload == "optimizer_and_parameters":
        weights = 2 * job.accumulation * size * job.shape.parameters / job.num_gpus
    return (gradients + weights) / (LINK_EFFICIENCY * gpu.host_bandwidth)

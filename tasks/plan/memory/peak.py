"""Estimates the peak memory per GPU of training and of evaluation, item by item.

The peak is the largest of the moments in `moments`, which use `states`, `activations` and `loss`. Fragmentation of the
allocator and the CUDA context are not included. On a CPU the estimate is for one process, and was compared with
measurements there (benchmarks/memory_plan.py); a GPU's kernels differ in the loss.
"""

from __future__ import annotations

from dataclasses import dataclass

from tasks.plan.memory.evaluation import evaluation_moments
from tasks.plan.memory.jobs import EvaluationJob, TrainingJob
from tasks.plan.memory.moments import Moment, moments_of
from tasks.plan.memory.states import (
    BytesPerParameter,
    bytes_per_trained,
    compute_bytes,
    shard_counts,
    sharded_states,
    states_of,
    weight_bits,
)

__all__ = [
    "BytesPerParameter",
    "MemoryPlan",
    "bytes_per_trained",
    "compute_bytes",
    "estimate_evaluation",
    "estimate_memory",
    "shard_counts",
    "sharded_states",
    "weight_bits",
]


@dataclass(frozen=True)
class MemoryPlan(Moment):
    """The moment of peak memory, called `name`; and `host`, the bytes of host memory per GPU."""

    host: float = 0.0

    @property
    def moment(self) -> str:
        """When memory is at its peak, in words."""
        return self.name


def estimate_memory(job: TrainingJob) -> MemoryPlan:
    """Return the peak of training on one GPU, with the host's bytes per GPU.

    For rloo and grpo it is an upper bound without a measurement: answers are assumed to have their longest length.
    """
    return _peak(moments_of(job), _host_bytes(job))


def estimate_evaluation(job: EvaluationJob) -> MemoryPlan:
    """Return the peak of the evaluate task, in the held-out loss or in the generation of answers."""
    return _peak(evaluation_moments(job), 0.0)


def _peak(moments: list[Moment], host: float) -> MemoryPlan:
    largest = max(moments, key=lambda moment: moment.total)
    return MemoryPlan(**vars(largest), host=host)


def _host_bytes(job: TrainingJob) -> float:
    if job.offload == "none":
        return 0.0
    states = states_of(job)
    # the host keeps 32-bit gradients for its optimizer; ZeRO 3 also accumulates the gradients of micro-batches there
    accumulated = states.gradients if job.sharding == "zero3" else 0.0
    host = states.optimizer + accumulated + 4 * job.trained_parameters / job.num_gpus
    return host + states.weights if job.offload == "optimizer_and_parameters" else host

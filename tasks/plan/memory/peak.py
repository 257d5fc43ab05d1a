"""Bytes of one GPU at the fullest moment of training and of evaluation, item by item.

The moments are in `tasks.plan.memory.moments`, the states in `states`, what layers save in `activations`, the loss in
`loss_memory`. What the allocator loses to fragmentation and the CUDA context are not in it. On a CPU the same is said
of one process, against which it was measured (benchmarks/memory_plan.py); kernels of a GPU differ in the loss.
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
    divided_states,
    divisors,
    states_of,
    weight_bits,
)

__all__ = [
    "BytesPerParameter",
    "MemoryPlan",
    "bytes_per_trained",
    "compute_bytes",
    "divided_states",
    "divisors",
    "estimate_evaluation",
    "estimate_memory",
    "weight_bits",
]


@dataclass(frozen=True)
class MemoryPlan(Moment):
    """What is there at the fullest moment, whose `name` says which, and the bytes of the host's memory for each GPU."""

    host: float = 0.0

    @property
    def moment(self) -> str:
        """When it is fullest, in words."""
        return self.name


def estimate_memory(job: TrainingJob) -> MemoryPlan:
    """Return the fullest moment of training on one GPU, and the host's bytes for each GPU.

    For rloo and grpo it is a bound that no measurement stands behind: answers are taken to have their longest length.
    """
    return _fullest(moments_of(job), _host_bytes(job))


def estimate_evaluation(job: EvaluationJob) -> MemoryPlan:
    """Return the fullest moment of the evaluate task: of the held-out loss, or of the generation of answers."""
    return _fullest(evaluation_moments(job), 0.0)


def _fullest(moments: list[Moment], host: float) -> MemoryPlan:
    fullest = max(moments, key=lambda each: each.total)
    return MemoryPlan(**vars(fullest), host=host)


def _host_bytes(job: TrainingJob) -> float:
    if job.offload == "none":
        return 0.0
    states = states_of(job)
    # the host keeps gradients in 32 bits for its optimizer, and ZeRO 3 also those that the passes add up
    added_up = states.gradients if job.sharding == "zero3" else 0.0
    host = states.optimizer + added_up + 4 * job.trained_parameters / job.num_gpus
    return host + states.weights if job.offload == "optimizer_and_parameters" else host

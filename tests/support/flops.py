"""FLOPs and tokens a second, as published training runs count them, of jobs that the plan times."""

from __future__ import annotations

from configs.schema.cluster import MODEL_PARALLEL
from tasks.plan.hardware.gpus import GpuType
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.time.step_time import estimate_step_time, micro_batch_flops, recomputed_flops


def model_flops(job: TrainingJob) -> float:
    """Return the FLOPs that the rows of one replica need in an optimizer step."""
    return job.accumulation * sum(micro_batch_flops(job))


def hardware_flops(job: TrainingJob) -> float:
    """Return the FLOPs that are computed: with checkpointing the layers' forward pass twice."""
    return model_flops(job) + job.accumulation * recomputed_flops(job)


def palm_flops_per_token(shape: ModelShape, length: int) -> float:
    """Return 6 N + 12 layers x hidden x length, which published MFUs count for a token: Chowdhery et al. 2022,
    appendix B (https://arxiv.org/abs/2204.02311). N is all parameters and attention is not causal, so that an MFU of
    this convention is higher than `mfu`."""
    return 6.0 * shape.parameters + 12.0 * shape.layers * shape.hidden * length


def tokens_per_second_and_gpu(job: TrainingJob, gpu: GpuType) -> float:
    """Return the tokens of all rows of a step, per second and GPU."""
    return job.tokens * job.accumulation / _gpus_of_a_replica(job) / estimate_step_time(job, gpu).total


def mfu(job: TrainingJob, gpu: GpuType) -> float:
    """Return the model FLOPs utilization: FLOPs that the method needs, per second, over the peak."""
    return model_flops(job) / _gpus_of_a_replica(job) / estimate_step_time(job, gpu).total / gpu.peak_flops


def _gpus_of_a_replica(job: TrainingJob) -> int:
    return job.num_gpus if job.sharding in MODEL_PARALLEL else 1

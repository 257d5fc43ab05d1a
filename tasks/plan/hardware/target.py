"""What a plan is for: GPUs of one type, or the CPU cores of one machine."""

from __future__ import annotations

from dataclasses import dataclass

from configs.effective.device import PLAIN_CPU, Device
from tasks.plan.hardware.gpus import GpuType


@dataclass(frozen=True)
class Target:
    """What trains: GPUs of one type, or processes on CPU cores that share the host's memory."""

    name: str
    memory_bytes: float
    """Of one GPU, or of the host on a CPU."""
    device: Device = PLAIN_CPU
    gpu: GpuType | None = None
    """Its row of the table, which time and cost are reckoned from; None where it has none."""

    @property
    def is_gpu(self) -> bool:
        """Whether GPUs train."""
        return self.device.is_gpu


def gpu_target(gpu: GpuType) -> Target:
    """Return GPUs of a type as the target of a plan.

    The image of the tasks that train has bitsandbytes, but not flash-attn; what Liger's kernels save is not counted.
    """
    return Target(gpu.name, gpu.memory_bytes, Device("gpu", gpu.name, gpu.has_bfloat16), gpu)

"""The hardware that a plan is made for: GPUs of one type, or the CPU cores of one machine."""

from __future__ import annotations

from dataclasses import dataclass

from configs.effective.device import PLAIN_CPU, Device
from tasks.plan.hardware.gpus import GpuType


@dataclass(frozen=True)
class Target:
    """The hardware that trains: GPUs of one type, or CPU cores whose processes share the host's memory."""

    name: str
    memory_bytes: float
    """Memory of one GPU, or of the host for a CPU."""
    device: Device = PLAIN_CPU
    gpu: GpuType | None = None
    """The GPU's row in the table, from which time and cost are computed; None if it has none."""

    @property
    def is_gpu(self) -> bool:
        """Whether GPUs train."""
        return self.device.is_gpu


def gpu_target(gpu: GpuType) -> Target:
    """Return GPUs of a type as the target of a plan.

    The training image has bitsandbytes but not flash-attn; the memory that Liger's kernels save is not counted.
    """
    return Target(gpu.name, gpu.memory_bytes, Device("gpu", gpu.name, gpu.has_bfloat16), gpu)

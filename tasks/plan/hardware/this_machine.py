"""Finds the hardware on which this machine trains, its GPUs or its memory, without torch and in an instant."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path

from configs.effective.device import Device
from tasks.plan.hardware.gpus import GpuType
from tasks.plan.hardware.local_gpus import local_gpus
from tasks.plan.hardware.target import Target

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_AMPERE = (8, 0)
"""Lowest compute capability of a GPU that computes in bfloat16."""
_CPU_FLAGS = Path("/proc/cpuinfo")
_BFLOAT16_FLAGS = {"avx512_bf16", "amx_tile"}
"""Linux' names of the CPU instructions that PyTorch requires to compute in bfloat16."""


def host_memory_bytes() -> int:
    """Return the memory of this machine, or of the container if that is smaller."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in map(Path, _CGROUP_LIMITS):
        if limit.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdecimal():
            total = min(total, int(text))
    return total


def this_machine(types: Sequence[GpuType]) -> Target:
    """Return the first GPU that a process here may use, with its data if `types` has it; without a GPU, the CPU."""
    gpus = local_gpus()
    if not gpus or not gpus[0].memory_bytes:
        return cpu_target(host_memory_bytes())
    gpu = gpus[0]
    known = next((gpu_type for gpu_type in types if _has_name(gpu_type, gpu.name)), None)
    return Target(
        known.name if known else gpu.name,
        gpu.memory_bytes,
        Device("gpu", gpu.name, gpu.compute_capability >= _AMPERE, _has_bitsandbytes()),
        known,
    )


def cpu_target(memory_bytes: float) -> Target:
    """Return this machine's CPU, with `memory_bytes` of memory, as the target of a plan."""
    return Target("CPU", memory_bytes, Device("cpu", "CPU", cpu_has_bfloat16(), _has_bitsandbytes()))


def cpu_has_bfloat16() -> bool:
    """Return whether this CPU has instructions for bfloat16: AVX-512 BF16 or AMX, as Linux lists them."""
    return not _BFLOAT16_FLAGS.isdisjoint(_cpu_flags())


def cpu_has_avx512() -> bool:
    """Return whether this CPU has AVX-512, as Linux lists it."""
    return "avx512f" in _cpu_flags()


def _cpu_flags() -> list[str]:
    """Return the names of this CPU's instructions; none where it is not Linux, whose CPUs lack those asked for here."""
    try:
        lines = _CPU_FLAGS.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return next((line.partition(":")[2].split() for line in lines if line.startswith("flags")), [])


def _has_bitsandbytes() -> bool:
    return importlib.util.find_spec("bitsandbytes") is not None


def _has_name(gpu: GpuType, name: str) -> bool:
    return name.casefold().replace(" ", "-") in {
        known.casefold().replace(" ", "-") for known in (gpu.name, *gpu.labels)
    }

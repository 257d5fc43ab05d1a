"""What this machine trains on: its GPUs, or its memory. Without torch, in an instant."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from tasks.plan.hardware.gpus import GpuType
from tasks.plan.hardware.local_gpus import local_gpus
from tasks.plan.sizing import Target

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_AMPERE = (8, 0)
"""Compute capability from which on a GPU computes in bfloat16."""


def host_memory_bytes() -> int:
    """Return the memory of this machine, or of the container if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for limit in map(Path, _CGROUP_LIMITS):
        if limit.is_file() and (text := limit.read_text(encoding="ascii").strip()).isdecimal():
            total = min(total, int(text))
    return total


def this_machine(types: Sequence[GpuType]) -> Target:
    """Return the first GPU that a process here may use, with the table's data where it is in it; else the CPU."""
    gpus = local_gpus()
    if not gpus or not gpus[0].memory_bytes:
        return Target("CPU", host_memory_bytes())
    gpu = gpus[0]
    known = next((each for each in types if _is_named(each, gpu.name)), None)
    return Target(
        known.name if known else gpu.name,
        gpu.memory_bytes,
        known,
        is_gpu=True,
        computes_bfloat16=gpu.compute_capability >= _AMPERE,
    )


def _is_named(gpu: GpuType, name: str) -> bool:
    return name.casefold().replace(" ", "-") in {each.casefold().replace(" ", "-") for each in (gpu.name, *gpu.labels)}

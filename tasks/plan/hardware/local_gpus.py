"""Lists the GPUs of this machine with the driver's own tool: importing torch to count them takes seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class LocalGpu:
    """A GPU that processes on this machine can use. `compute_capability` is (major, minor), such as (9, 0)."""

    name: str
    uuid: str
    memory_bytes: int
    compute_capability: tuple[int, int]


def local_gpus() -> list[LocalGpu]:
    """Return the NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES leaves visible, in its order.

    The list is empty if there is no nvidia-smi or it finds no driver. A partitioned GPU (MIG) counts as one.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,uuid,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    gpus = [_gpu(line) for line in listed.splitlines() if line.count(",") == 3]
    return _visible(gpus, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _gpu(line: str) -> LocalGpu:
    name, uuid, mebibytes, capability = (part.strip() for part in line.split(","))
    major, _, minor = capability.partition(".")
    compute_capability = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
    return LocalGpu(name, uuid, int(mebibytes) * 2**20 if mebibytes.isdigit() else 0, compute_capability)


def _visible(gpus: list[LocalGpu], visible_devices: str | None) -> list[LocalGpu]:
    """Return the GPUs that `visible_devices` names by number or beginning of a UUID, up to the first unknown name.

    CUDA does the same: CUDA C++ Programming Guide, environment variables.
    """
    if visible_devices is None:
        return gpus
    visible: list[LocalGpu] = []
    for name in (part.strip() for part in visible_devices.split(",")):
        if name.isdigit():
            matching = gpus[int(name) : int(name) + 1]
        else:
            # the UUID of a partition does not tell to which GPU it belongs
            is_partition = name.startswith("MIG-")
            matching = gpus[:1] if is_partition else [gpu for gpu in gpus if name and gpu.uuid.startswith(name)]
        if len(matching) != 1:
            break
        visible += matching
    return visible

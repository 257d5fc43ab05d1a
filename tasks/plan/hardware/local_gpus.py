"""The GPUs of this machine, asked of the driver's own tool: importing torch to count them takes seconds."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass

_TIMEOUT_SECONDS = 20.0


@dataclass(frozen=True)
class LocalGpu:
    """A GPU that processes here would see. `compute_capability` is major and minor, such as (9, 0)."""

    name: str
    uuid: str
    memory_bytes: int
    compute_capability: tuple[int, int]


def local_gpus() -> list[LocalGpu]:
    """Return the NVIDIA GPUs of this machine that CUDA_VISIBLE_DEVICES leaves visible, in its order.

    None where there is no nvidia-smi, or it finds no driver. A GPU that is divided (MIG) counts as one.
    """
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return []
    query = [tool, "--query-gpu=name,uuid,memory.total,compute_cap", "--format=csv,noheader,nounits"]
    try:
        listed = subprocess.run(query, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    found = [_gpu(line) for line in listed.splitlines() if line.count(",") == 3]
    return _visible(found, os.environ.get("CUDA_VISIBLE_DEVICES"))


def _gpu(line: str) -> LocalGpu:
    name, uuid, mebibytes, capability = (part.strip() for part in line.split(","))
    major, _, minor = capability.partition(".")
    numbers = (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0)
    return LocalGpu(name, uuid, int(mebibytes) * 2**20 if mebibytes.isdigit() else 0, numbers)


def _visible(gpus: list[LocalGpu], wanted: str | None) -> list[LocalGpu]:
    """Return those that `wanted` names, by number or the beginning of a UUID, up to the first that there is not.

    So does CUDA: CUDA C++ Programming Guide, environment variables.
    """
    if wanted is None:
        return gpus
    visible: list[LocalGpu] = []
    for word in (part.strip() for part in wanted.split(",")):
        if word.isdigit():
            named = gpus[int(word) : int(word) + 1]
        else:
            # a part of a divided GPU has a UUID of its own, which does not say of which
            is_part = word.startswith("MIG-")
            named = gpus[:1] if is_part else [gpu for gpu in gpus if word and gpu.uuid.startswith(word)]
        if len(named) != 1:
            break
        visible += named
    return visible

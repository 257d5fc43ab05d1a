"""The container images, one per role, built by Flyte from pinned packages.

The registry is read from `IMAGE_REGISTRY` when workflows are registered. A dynamic task evaluates these specs again
inside its pod, so that variable is part of every task's environment (`POD_ENVIRONMENT`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from flytekit import ImageSpec

REGISTRY = os.environ.get("IMAGE_REGISTRY", "localhost/fine-tune")
POD_ENVIRONMENT = {"IMAGE_REGISTRY": REGISTRY}
TRAIN_ENVIRONMENT = {
    **POD_ENVIRONMENT,
    # a process whose peer is gone ends, and does not wait in NCCL
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "300",
    # seconds in which processes may save after SIGTERM: less than a pod has
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "100",
}

_CONSTRAINTS = Path(__file__).parent.parent / "constraints.txt"


def pinned(*names: str) -> list[str]:
    """Return `name==version` for each name, as pinned in constraints.txt."""
    pins = {
        _normalized(name): version for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", _CONSTRAINTS.read_text())
    }
    return [f"{name}=={pins[_normalized(name)]}" for name in names]


def _normalized(name: str) -> str:
    """Return a package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


_FLYTE = pinned("flytekit", "flytekitplugins-kfpytorch", "flytekitplugins-deck-standard", "pydantic", "PyYAML")
_MODELS = pinned(
    "torch", "transformers", "trl", "peft", "accelerate", "safetensors", "datasets", "huggingface_hub", "xxhash"
)
_REPORTS = pinned("pandas", "pandera", "py3langid", "pyarrow", "matplotlib", "rapidfuzz", "rensa", "zstandard")

CPU_IMAGE = ImageSpec(
    name="fine-tune-cpu",
    registry=REGISTRY,
    python_version="3.11",
    packages=[*_FLYTE, *_MODELS, *_REPORTS],
    env={"TOKENIZERS_PARALLELISM": "true"},
)

GPU_IMAGE = ImageSpec(
    name="fine-tune-gpu",
    registry=REGISTRY,
    python_version="3.11",
    # torch's wheels bring CUDA's libraries; DeepSpeed compiles its CPU Adam on first use and needs a compiler
    apt_packages=["build-essential"],
    packages=[*_FLYTE, *_MODELS, *_REPORTS, *pinned("bitsandbytes", "deepspeed", "liger_kernel", "ninja")],
    env={"TOKENIZERS_PARALLELISM": "true"},
)

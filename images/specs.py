"""The container images, one per role, of exactly the packages that its lock names; built by Flyte.

Choices are read from the environment of whoever registers. A dynamic task evaluates these specs again inside its pod,
and must come to the same names there, so that the choices are part of every task's environment (`POD_ENVIRONMENT`).
"""

from __future__ import annotations

import os
from pathlib import Path

from flytekit import ImageSpec
from flytekit.constants import CopyFileDetection

from configs.errors import ArtifactError, ConfigError
from images.roles import Role

REGISTRY = os.environ.get("IMAGE_REGISTRY") or "localhost/fine-tune"
BUILDER = os.environ.get("IMAGE_BUILDER") or "default"
# what a builder begins with unless told otherwise: its name is part of the tag, so that two builders' images differ
_BASES = {"default": "debian:bookworm-slim", "envd": "cr.flyte.org/flyteorg/flytekit:py3.11-1.16.31"}
if BUILDER not in _BASES:
    raise ConfigError(
        f"IMAGE_BUILDER={BUILDER} is not a builder of images; set it to {' or '.join(_BASES)}, or unset it"
    )
BASE = os.environ.get("IMAGE_BASE") or _BASES[BUILDER]

PODS = os.environ.get("FINE_TUNE_PODS", "full")
if PODS not in ("full", "small"):
    raise ConfigError(f"FINE_TUNE_PODS={PODS} is not a size of pods; set it to small or full, or unset it")

POD_ENVIRONMENT = {"IMAGE_REGISTRY": REGISTRY, "IMAGE_BUILDER": BUILDER, "IMAGE_BASE": BASE, "FINE_TUNE_PODS": PODS}
TRAIN_ENVIRONMENT = {
    **POD_ENVIRONMENT,
    # a process whose peer is gone ends, and does not wait in NCCL
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "300",
    # seconds in which processes may save after SIGTERM: less than a pod has
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "100",
}


def _image(role: Role, apt_packages: list[str], env: dict[str, str]) -> ImageSpec:
    """Return the image of a role.

    Raises:
        ArtifactError: its lock did not travel with the code.
    """
    lock = Path(__file__).parent / f"{role}.txt"
    if not lock.is_file():
        raise ArtifactError(
            f"images/{role}.txt is not here; register with `--copy all`, so that all files of the project travel"
        )
    return ImageSpec(
        name=f"fine-tune-{role}",
        registry=REGISTRY,
        builder=BUILDER,
        base_image=BASE,
        python_version="3.11",
        requirements=str(lock),
        apt_packages=apt_packages,
        # the code travels with a registration: images change with their packages alone, and are named alike in pods
        source_copy_mode=CopyFileDetection.NO_COPY,
        env={"TOKENIZERS_PARALLELISM": "true", **env},
    )


CPU_IMAGE = _image("cpu", [], {})
# DeepSpeed compiles what it runs on CPUs, and Triton its launchers, on first use
GPU_IMAGE = _image("gpu", ["build-essential"], {"GIT_PYTHON_REFRESH": "quiet"})
# one of gptqmodel's packages is built from source, against PCRE
GPTQ_IMAGE = _image("gptq", ["build-essential", "libpcre2-dev"], {})
IMAGES: dict[Role, ImageSpec] = {"cpu": CPU_IMAGE, "gpu": GPU_IMAGE, "gptq": GPTQ_IMAGE}

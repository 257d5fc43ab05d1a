"""The container images, one per role, with exactly the packages in the role's lock. Flyte builds them.

Registry, builder and base are read from the environment at registration. A dynamic task evaluates these specs again in
its pod and must get the same image names, so every task's environment holds these settings (`POD_ENVIRONMENT`).
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
# each builder's default base image; it is part of the tag, so that two builders' images differ
_BASES = {"default": "debian:bookworm-slim", "envd": "cr.flyte.org/flyteorg/flytekit:py3.11-1.16.31"}
if BUILDER not in _BASES:
    raise ConfigError(f"IMAGE_BUILDER={BUILDER} is not an image builder; set it to {' or '.join(_BASES)}, or unset it")
BASE = os.environ.get("IMAGE_BASE") or _BASES[BUILDER]

PODS = os.environ.get("FINE_TUNE_PODS", "full")
if PODS not in ("full", "small"):
    raise ConfigError(f"FINE_TUNE_PODS={PODS} is not a size of pods; set it to small or full, or unset it")

POD_ENVIRONMENT = {
    "IMAGE_REGISTRY": REGISTRY,
    "IMAGE_BUILDER": BUILDER,
    "IMAGE_BASE": BASE,
    "FINE_TUNE_PODS": PODS,
    # CRITICAL: the process that unpacks the code would end each log with "Unclosed client session", and no filter of
    # ours reaches it; tasks/runtime/quiet_logs.py gives the process that runs the task its usual level
    "FLYTE_SDK_LOGGING_LEVEL": "50",
}
TRAIN_ENVIRONMENT = {
    **POD_ENVIRONMENT,
    # a process whose peer is lost ends instead of waiting in NCCL
    "TORCH_NCCL_HEARTBEAT_TIMEOUT_SEC": "300",
    # seconds that processes have to save after SIGTERM: less than the pod's grace period
    "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "100",
}


def _image(role: Role, apt_packages: list[str], env: dict[str, str]) -> ImageSpec:
    """Return the image of a role.

    Raises:
        ArtifactError: the registration did not send the role's lock.
    """
    lock = Path(__file__).parent / f"{role}.txt"
    if not lock.is_file():
        raise ArtifactError(
            f"images/{role}.txt is missing here; register with `--copy all`, which sends all files of the project"
        )
    return ImageSpec(
        name=f"fine-tune-{role}",
        registry=REGISTRY,
        builder=BUILDER,
        base_image=BASE,
        python_version="3.11",
        requirements=str(lock),
        apt_packages=apt_packages,
        # registration sends the code: an image changes only with its packages, and has the same name in pods
        source_copy_mode=CopyFileDetection.NO_COPY,
        env={"TOKENIZERS_PARALLELISM": "true", **env},
    )


CPU_IMAGE = _image("cpu", [], {})
# on first use DeepSpeed compiles its CPU kernels, and Triton its launchers
GPU_IMAGE = _image("gpu", ["build-essential"], {"GIT_PYTHON_REFRESH": "quiet"})
# gptqmodel requires a package that is built from source against PCRE
GPTQ_IMAGE = _image("gptq", ["build-essential", "libpcre2-dev"], {})
IMAGES: dict[Role, ImageSpec] = {"cpu": CPU_IMAGE, "gpu": GPU_IMAGE, "gptq": GPTQ_IMAGE}

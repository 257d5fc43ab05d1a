"""Versions of CUDA, its driver, torch and the packages built on them that work together, each with its source.

The images install these versions, docs/images.md shows this table, and a test compares it with the installed packages.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Pin:
    """One package of the GPU image: its version, what it needs of CUDA or a compiler, and the source of that fact."""

    package: str
    version: str
    needs: str
    source: str


CUDA = "13.0"
OLDEST_DRIVER = 580
"""Oldest major version of NVIDIA's driver that runs CUDA 13.

https://docs.nvidia.com/deploy/cuda-compatibility/minor-version-compatibility.html
"""
OLDEST_COMPUTE_CAPABILITY = 7.5
"""Turing (T4, RTX 20): torch's wheels for CUDA 13.0 hold no kernels for Volta and older GPUs.

https://github.com/pytorch/pytorch/blob/main/RELEASE.md
"""

PINS = (
    Pin("torch", "2.13.0", "CUDA 13.0, cuDNN 9.20, NCCL 2.29.7: packages that its wheel requires", "its metadata"),
    Pin("triton", "3.7.1", "a C compiler when kernels are first used", "torch's metadata"),
    Pin(
        "deepspeed",
        "0.19.8",
        "a C++ compiler and ninja for offloading; no nvcc for the shipped configs",
        "op_builder/",
    ),
    Pin("bitsandbytes", "0.50.2", "nothing: its wheel has kernels for CUDA 13.0", "its files"),
    Pin("liger-kernel", "0.8.5", "nothing: its kernels are Triton's", "its metadata"),
)

"""The device of this process, as PyTorch describes it, in the terms of `configs.effective`."""

from __future__ import annotations

import importlib.util
import shutil

import torch

from configs.effective.device import Device


def this_device() -> Device:
    """Return this process's GPU, or the CPU, without Liger's kernels."""
    has_bitsandbytes = importlib.util.find_spec("bitsandbytes") is not None
    if not torch.cuda.is_available():
        return Device(
            kind="cpu",
            name="CPU",
            has_bfloat16=torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported(),
            has_bitsandbytes=has_bitsandbytes,
            has_compiler=any(shutil.which(name) for name in ("c++", "g++", "clang++")),
        )
    return Device(
        kind="gpu",
        name=torch.cuda.get_device_name(),
        # by default, torch answers for emulation too, which is slower than float32
        has_bfloat16=torch.cuda.is_bf16_supported(including_emulation=False),
        has_bitsandbytes=has_bitsandbytes,
        has_flash_attention=importlib.util.find_spec("flash_attn") is not None,
        has_compiler=importlib.util.find_spec("triton") is not None,
    )

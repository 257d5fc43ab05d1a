"""bitsandbytes' settings with which weights are quantized while a model is loaded."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BitsAndBytesConfig

from configs.artifacts import BitsAndBytesMethod

SETTINGS: dict[BitsAndBytesMethod, dict[str, Any]] = {
    "8bit": {"load_in_8bit": True},
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}
"""Arguments of `BitsAndBytesConfig`, by method; configs/artifacts.py has what else is known of a method."""


def bitsandbytes_config(method: BitsAndBytesMethod, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the settings of a method. `dtype` is the type in which 4-bit weights are multiplied."""
    of_4_bits = {"bnb_4bit_compute_dtype": dtype} if "load_in_4bit" in SETTINGS[method] else {}
    return BitsAndBytesConfig(**SETTINGS[method], **of_4_bits)

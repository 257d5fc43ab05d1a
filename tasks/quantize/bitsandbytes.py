"""Quantize a merged model with bitsandbytes, on a GPU or a CPU."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, BitsAndBytesConfig

from configs.artifacts import BitsAndBytesMethod
from configs.errors import ConfigError, ModelError
from configs.schema import ModelConfig
from tasks.models.companions import copy_record
from tasks.models.load import ADAPTER_FOLDER, is_reward_model, load_tokenizer, weight_dtype
from tasks.models.loading import counted_loading
from tasks.models.pace import doing
from tasks.models.quiet import quiet_libraries

# name of a reward model's head, which transformers would quantize; it finds a language model's head by itself
_REWARD_HEADS = ["score"]

SETTINGS: dict[BitsAndBytesMethod, dict[str, Any]] = {
    "8bit": {"load_in_8bit": True},
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}
"""Arguments of `BitsAndBytesConfig`, by method; configs/artifacts.py has what else is known of a method."""


def quantize_model(method: BitsAndBytesMethod, model_config: ModelConfig, model: Path, output: Path) -> None:
    """Write a quantized copy of `model`, with its tokenizer, to `output`.

    8bit is LLM.int8(), Dettmers et al. 2022 (https://arxiv.org/abs/2208.07339). 4bit is NF4 with double quantization,
    Dettmers et al. 2023 (https://arxiv.org/abs/2305.14314). Linear layers are quantized. Embeddings, the head of a
    language model or a reward model, and virtual tokens in `adapter/` keep their type.

    Raises:
        ConfigError: bitsandbytes is not installed.
        ModelError: no layer was quantized, as in a model that is quantized already.
    """
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise ConfigError(
            f"quantize.methods names {method}, which needs bitsandbytes; install it or set quantize.methods=[]"
        ) from None
    quiet_libraries()
    dtype = weight_dtype(model_config)
    is_reward = is_reward_model(model)
    settings = bitsandbytes_config(method, dtype)
    if is_reward:
        settings.llm_int8_skip_modules = _REWARD_HEADS
    # loading quantizes
    with doing("loading the model"), counted_loading("quantize"):
        quantized = (AutoModelForSequenceClassification if is_reward else AutoModelForCausalLM).from_pretrained(
            model,
            dtype=dtype,
            quantization_config=settings,
            device_map={"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"},
            trust_remote_code=model_config.trust_remote_code,
        )
    if not any(type(module).__name__ in ("Linear8bitLt", "Linear4bit") for module in quantized.modules()):
        raise ModelError(
            f"{model_config.name}: no layer was quantized to {method}; its linear layers are of another kind"
        )
    with doing("saving"):
        quantized.save_pretrained(output)
    load_tokenizer(model, model_config.trust_remote_code).save_pretrained(output)
    copy_record(model, output)
    if (model / ADAPTER_FOLDER).is_dir():
        shutil.copytree(model / ADAPTER_FOLDER, output / ADAPTER_FOLDER)


def bitsandbytes_config(method: BitsAndBytesMethod, dtype: torch.dtype) -> BitsAndBytesConfig:
    """Return the settings of a method. `dtype` is the type in which 4-bit weights are multiplied."""
    of_4_bits = {"bnb_4bit_compute_dtype": dtype} if "load_in_4bit" in SETTINGS[method] else {}
    return BitsAndBytesConfig(**SETTINGS[method], **of_4_bits)

"""Quantize a merged model with bitsandbytes, on a GPU or a CPU."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from configs.artifacts import BitsAndBytesMethod
from configs.errors import ConfigError, ModelError
from configs.schema import ModelConfig
from tasks.models.companions import copy_record
from tasks.models.linear_layers import REWARD_HEAD, quantized_weights
from tasks.models.load import ADAPTER_FOLDER, is_reward_model, load_tokenizer, weight_dtype
from tasks.models.loading import counted_loading
from tasks.models.pace import doing, say
from tasks.models.quantized_loading import bitsandbytes_config
from tasks.models.quiet import quiet_libraries


def quantize_model(
    method: BitsAndBytesMethod, model_config: ModelConfig, model: Path, output: Path, min_share: float = 0.0
) -> None:
    """Write a quantized copy of `model`, with its tokenizer, to `output`; log how much of it is quantized.

    8bit is LLM.int8(), Dettmers et al. 2022 (https://arxiv.org/abs/2208.07339). 4bit is NF4 with double quantization,
    Dettmers et al. 2023 (https://arxiv.org/abs/2305.14314). Linear layers are quantized. Embeddings, the head of a
    language model or a reward model, and virtual tokens in `adapter/` keep their type.

    Raises:
        ConfigError: bitsandbytes is not installed.
        ModelError: less than `min_share` of the linear weights was quantized, or none at all.
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
        # transformers finds the head of a language model by itself
        settings.llm_int8_skip_modules = [REWARD_HEAD]
    # loading quantizes
    with doing("loading the model"), counted_loading("quantize"):
        quantized = (AutoModelForSequenceClassification if is_reward else AutoModelForCausalLM).from_pretrained(
            model,
            dtype=dtype,
            quantization_config=settings,
            device_map={"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"},
            trust_remote_code=model_config.trust_remote_code,
        )
    weights = quantized_weights(quantized)
    if not weights.is_enough(min_share):
        fix = f"leave {method} out of quantize.methods, or lower quantize.min_share"
        raise ModelError(weights.refusal(f"quantize.methods names {method}", model_config.name, min_share, fix))
    left = f"; not {weights.left_in_words}" if weights.others else ""
    say(f"{weights.share:.1%} of the weights of linear layers are in {method}{left}", f"quantize {method}")
    with doing("saving"):
        quantized.save_pretrained(output)
    load_tokenizer(model, model_config.trust_remote_code).save_pretrained(output)
    copy_record(model, output)
    if (model / ADAPTER_FOLDER).is_dir():
        shutil.copytree(model / ADAPTER_FOLDER, output / ADAPTER_FOLDER)

"""Load a causal language model and its tokenizer from a directory, in the type the config asks for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from configs.errors import ModelError
from configs.schema import ModelConfig

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")


def device() -> torch.device:
    """Return this process's device: its local rank's GPU, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def has_bfloat16() -> bool:
    """Return whether bfloat16 is fast here; on CPUs it is emulated more often than not."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def weight_dtype(config: ModelConfig) -> torch.dtype:
    """Return the type weights are loaded in: as configured, or bfloat16 on a GPU that has it, else float32."""
    if config.dtype != "auto":
        return _DTYPES[config.dtype]
    return torch.bfloat16 if has_bfloat16() else torch.float32


def checkpoint_dtype(directory: Path) -> torch.dtype:
    """Return the type that the model in `directory` was published in; float32 where its config does not say."""
    settings = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    return _DTYPES.get(str(settings.get("dtype") or settings.get("torch_dtype")), torch.float32)


def load_model(
    config: ModelConfig, directory: Path, dtype: torch.dtype | None = None, **kwargs: Any
) -> PreTrainedModel:
    """Return the model in `directory`; `dtype` overrides the config's. Quantized models keep their own types.

    Raises:
        ModelError: weights are missing or do not fit the configuration.
    """
    if config.attn_implementation != "auto":
        kwargs["attn_implementation"] = config.attn_implementation
    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            directory,
            dtype=dtype or weight_dtype(config),
            trust_remote_code=config.trust_remote_code,
            use_safetensors=None if config.allow_pickled_weights else True,
            output_loading_info=True,
            **kwargs,
        )
    except (ImportError, OSError, ValueError, KeyError, RuntimeError) as error:
        raise ModelError(f"model.name={config.name} cannot be loaded: {str(error).splitlines()[0][:200]}") from None
    missing = sorted(info["missing_keys"])
    if missing:
        # transformers fills them with random numbers and only warns
        raise ModelError(
            f"model.name={config.name} lacks {len(missing)} weights that its config.json asks for, first {missing[0]}"
        )
    return model


def load_tokenizer(directory: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer that the tokenize stage wrote."""
    # False, not the default None, with which transformers asks on the terminal and waits
    return AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)


def weights_size(directory: Path) -> int:
    """Return the bytes of the weight files in `directory`."""
    return sum(file.stat().st_size for file in directory.iterdir() if file.name.endswith(WEIGHT_ENDINGS))

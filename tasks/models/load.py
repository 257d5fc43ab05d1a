"""Load a language model or a reward model, and its tokenizer, from a directory, in the configured dtype."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from configs.effective.numbers import loaded_format
from configs.errors import ModelError
from configs.printable import one_line
from configs.schema import ModelConfig
from tasks.files.model_settings import read_settings
from tasks.models.four_bit_kernels import choose_kernels
from tasks.models.generation_flags import repair_generation_config
from tasks.models.library_errors import LIBRARY_ERRORS, reason_of
from tasks.models.linear_layers import REWARD_HEAD
from tasks.models.placement import LoadIn, check_placed, placement
from tasks.models.this_device import this_device

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
HEAD_WEIGHTS = ("score.weight", "score.bias")
"""Weights of a reward model's head, which a new one lacks."""
ADAPTER_FOLDER = "adapter"
"""Folder of a model directory for virtual tokens, which cannot be merged into weights."""
WEIGHT_ENDINGS = (".safetensors", ".bin", ".pt", ".pth")


def device() -> torch.device:
    """Return this process's device: its current GPU, or the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def weight_dtype(config: ModelConfig) -> torch.dtype:
    """Return the dtype in which weights are loaded on this device."""
    return DTYPES[loaded_format(config, this_device())]


def checkpoint_dtype(directory: Path) -> torch.dtype:
    """Return the dtype in which the model in `directory` was published; float32 where its config does not say."""
    settings = read_settings(directory / "config.json")
    return DTYPES.get(str(settings.get("dtype") or settings.get("torch_dtype")), torch.float32)


def load_model(
    config: ModelConfig,
    directory: Path,
    dtype: torch.dtype | None = None,
    load_in: LoadIn = "as_saved",
    gpus: int = 1,
    **kwargs: Any,
) -> PreTrainedModel:
    """Return the causal language model in `directory`, with the virtual tokens of its folder `adapter`, if any.

    `dtype` overrides the config's; `kwargs` go to transformers, and may override the config's attention. Quantized
    models keep their own dtypes. On a CPU, 4-bit layers get a kernel that can take them.

    With `load_in` 4bit, linear layers are quantized to NF4 while they are loaded. With several `gpus` the model is
    divided over them layer by layer (tasks/models/placement.py); it is then where it belongs, and must not be moved.

    Raises:
        ModelError: weights are missing or do not fit the configuration; no kernel takes a 4-bit layer's width; the
            model does not fit on `gpus` GPUs.
        ConfigError: this machine has GPUs, but fewer than `gpus`; or bitsandbytes is missing.
    """
    placed = placement(directory, load_in, gpus, dtype or weight_dtype(config))
    model, missing = _load(AutoModelForCausalLM, config, directory, dtype, placed, **kwargs)
    check_placed(model, config.name, gpus)
    refuse_missing(config, missing)
    return _with_adapter(model, directory)


def load_reward_model(
    config: ModelConfig,
    directory: Path,
    dtype: torch.dtype | None = None,
    new_head: bool = False,
    load_in: LoadIn = "as_saved",
    gpus: int = 1,
    **kwargs: Any,
) -> PreTrainedModel:
    """Return the model in `directory` with a head that yields one score per sequence, [batch, 1].

    The score is read at the last token that is not padding. Where the directory has a folder `adapter`, that holds the
    head and the trained prefix. With `new_head` the model may lack a head: it then gets random weights,
    N(0, initializer_range), from PyTorch's global generator. The other arguments are those of `load_model`; the head
    is never quantized.

    Raises:
        ModelError: weights other than those of a new head are missing, or the model has no such variant.
        ConfigError: as `load_model`.
    """
    placed = placement(directory, load_in, gpus, dtype or weight_dtype(config), [REWARD_HEAD])
    # a head in an adapter is loaded after the base
    is_headless = new_head or (directory / ADAPTER_FOLDER).is_dir()
    model, missing = _load(AutoModelForSequenceClassification, config, directory, dtype, placed, num_labels=1, **kwargs)
    check_placed(model, config.name, gpus)
    refuse_missing(config, [name for name in missing if not (is_headless and name in HEAD_WEIGHTS)])
    return _with_adapter(model, directory)


def is_reward_model(directory: Path) -> bool:
    """Return whether the model in `directory` yields a score instead of a next token."""
    adapter = directory / ADAPTER_FOLDER / "adapter_config.json"
    if adapter.is_file():
        # config.json is that of the base, which has no head yet
        return bool(read_settings(adapter).get("task_type") == "SEQ_CLS")
    settings = read_settings(directory / "config.json")
    return any(name.endswith("ForSequenceClassification") for name in (settings.get("architectures") or [])[:1])


def _load(
    kind: Any,
    config: ModelConfig,
    directory: Path,
    dtype: torch.dtype | None,
    placed: dict[str, Any],
    **kwargs: Any,
) -> tuple[PreTrainedModel, list[str]]:
    """Return the model, with a generation config that can be saved, and the names of weights that its files lack."""
    if config.attn_implementation != "auto":
        kwargs.setdefault("attn_implementation", _attention_here(config.attn_implementation))
    try:
        model, info = kind.from_pretrained(
            directory,
            dtype=dtype or weight_dtype(config),
            trust_remote_code=config.trust_remote_code,
            use_safetensors=None if config.allow_pickled_weights else True,
            output_loading_info=True,
            **{**placed, **kwargs},
        )
    except LIBRARY_ERRORS as error:
        raise ModelError(f"model.name={config.name} cannot be loaded: {reason_of(error)}") from None
    choose_kernels(model, f"model.name={config.name}", trains="quantization_config" in kwargs)
    repair_generation_config(model)
    return model, sorted(info["missing_keys"])


def _attention_here(configured: str) -> str:
    """Return the configured kernel, or sdpa where flash-attn is not installed; training logs that choice."""
    has_flash = torch.cuda.is_available() and importlib.util.find_spec("flash_attn") is not None
    return "sdpa" if configured == "flash_attention_2" and not has_flash else configured


def refuse_missing(config: ModelConfig, missing: list[str]) -> None:
    """Refuse a model whose files lack weights: transformers would only warn, and fill them with random numbers.

    Raises:
        ModelError: names their number and the first.
    """
    if missing:
        raise ModelError(
            f"model.name={config.name} lacks {len(missing)} weights that its config.json asks for, first "
            f"{one_line(missing[0])}\n"
            "part of it would be random: copy the whole model, or name one whose files hold a causal language model"
        )


def _with_adapter(model: PreTrainedModel, directory: Path) -> Any:
    """Return `model` with the virtual tokens of prompt or prefix tuning, where the directory has some."""
    adapter = directory / ADAPTER_FOLDER
    return PeftModel.from_pretrained(model, adapter) if adapter.is_dir() else model


def load_tokenizer(directory: Path, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Return the tokenizer that the tokenize stage wrote."""
    # with the default None, transformers would ask on the terminal and wait
    return AutoTokenizer.from_pretrained(directory, trust_remote_code=trust_remote_code)


def weights_size(directory: Path) -> int:
    """Return the size of the weight files in `directory`, in bytes."""
    return sum(file.stat().st_size for file in directory.iterdir() if file.name.endswith(WEIGHT_ENDINGS))

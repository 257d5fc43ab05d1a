"""Where a model that is scored lies: on one device, or divided layer by layer over the GPUs of this machine.

accelerate's big-model inference divides it (https://huggingface.co/docs/accelerate/concept_guides/big_model_inference):
each GPU holds a run of layers, and what the last of them returns goes on to the next GPU. One GPU works at a time, so a
division saves memory and no time. Inputs go to where the input embeddings are.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from configs.errors import ConfigError, ModelError
from configs.printable import one_line
from tasks.files.model_settings import read_settings
from tasks.models.pace import say
from tasks.models.quantized_loading import bitsandbytes_config

LoadIn = Literal["as_saved", "4bit"]
# of accelerate's places those that are no GPU
_OFF_GPU = ("cpu", "disk")


def placement(
    directory: Path, load_in: LoadIn, gpus: int, dtype: torch.dtype, kept: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the arguments of `from_pretrained` that quantize the model in `directory`, and divide it over `gpus`.

    Nothing is returned for a model as it is saved on one device. 4bit is NF4 with double quantization, Dettmers et al.
    2023 (https://arxiv.org/abs/2305.14314), computed with in `dtype`; layers called `kept` stay as they are, as does a
    model that is quantized already. A machine without GPUs loads the model on its CPU, and says so.

    Raises:
        ConfigError: this machine has GPUs, but fewer than `gpus`; or bitsandbytes is missing.
    """
    found = _quantization(dtype, kept) if is_quantized_here(directory, load_in) else {}
    if gpus > 1:
        found |= _division(gpus)
    if "quantization_config" in found and "device_map" not in found:
        # layers are quantized where they will compute
        found["device_map"] = {"": torch.cuda.current_device() if torch.cuda.is_available() else "cpu"}
    return found


def is_quantized_here(directory: Path, load_in: LoadIn) -> bool:
    """Return whether `load_in` quantizes the model in `directory`: not one that is saved with fewer bits."""
    return load_in != "as_saved" and not read_settings(directory / "config.json").get("quantization_config")


def check_placed(model: Any, name: str, gpus: int) -> None:
    """Refuse a model of which a part was put on the CPU or the disk because `gpus` GPUs do not hold it.

    Raises:
        ModelError: it would compute for days; names the number of parts.
    """
    places = getattr(model, "hf_device_map", None) or {}
    off = sum(str(place) in _OFF_GPU for place in places.values())
    if off and gpus > 1 and torch.cuda.is_available():
        raise ModelError(
            f"evaluate.gpus={gpus}: {off} of {len(places)} parts of model.name={one_line(name)} do not fit on the GPUs "
            "here\nraise evaluate.gpus, or set evaluate.load_in=4bit"
        )


def on_device(model: Any, place: torch.device) -> Any:
    """Return `model` on the device `place`; one that was divided when it was loaded stays where it is."""
    return model if is_divided(model) else model.to(place)


def is_divided(model: Any) -> bool:
    """Return whether parts of the model lie in different places, so that it must not be moved."""
    places = getattr(model, "hf_device_map", None) or {}
    return len(set(map(str, places.values()))) > 1


def input_device(model: Any) -> torch.device:
    """Return the device on which `model` takes its inputs: that of its input embeddings where it is divided."""
    if not is_divided(model):
        return torch.device(model.device)
    embeddings = model.get_input_embeddings()
    if embeddings.weight.device.type != "meta":
        return torch.device(embeddings.weight.device)
    # the weights of offloaded layers are on no device until they are used, which is on the first one
    return torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")


def _quantization(dtype: torch.dtype, kept: Sequence[str]) -> dict[str, Any]:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError(
            "evaluate.load_in=4bit needs bitsandbytes, which is not installed here; install it or set "
            "evaluate.load_in=as_saved"
        )
    settings = bitsandbytes_config("4bit", dtype)
    if kept:
        # transformers finds the head of a language model by itself
        settings.llm_int8_skip_modules = list(kept)
    return {"quantization_config": settings}


def _division(gpus: int) -> dict[str, Any]:
    """Return the arguments that divide a model over the first `gpus` GPUs, with nothing for the CPU and the disk."""
    here = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not here:
        say(f"evaluate.gpus={gpus}, and this machine has no GPU: the model is loaded on the CPU", "evaluate")
        return {}
    if here < gpus:
        raise ConfigError(
            f"evaluate.gpus={gpus}, and {here} GPU{'s are' if here > 1 else ' is'} here\n"
            f"set evaluate.gpus to at most {here}, or raise the limit of GPUs that a pod of the cluster may ask for"
        )
    # what is free, since reward models may be there already
    return {"device_map": "auto", "max_memory": {number: torch.cuda.mem_get_info(number)[0] for number in range(gpus)}}

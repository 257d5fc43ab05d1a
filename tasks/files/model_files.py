"""Which files a base model must have, wherever it lies: a folder here or at an address, or a repository of the hub."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable
from typing import Any

from configs.errors import ModelError
from configs.schema import ModelConfig

INDEX_FILE = "model.safetensors.index.json"
SETTINGS_FILES = ("config.json", "tokenizer_config.json")
"""Files whose content is checked, not only their names."""
UNUSED_PATTERNS = ("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.tflite", "original/*", "*.ckpt")
"""Files of other frameworks, which lie beside a model's weights and are neither downloaded nor uploaded."""
PICKLED_PATTERNS = ("*.bin", "*.pt", "*.pth")
"""Where safetensors are published too, these are not even downloaded."""
_PICKLED_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_TOKENIZER_FILES = {"tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt", "tekken.json"}


def is_hub_id(name: str) -> bool:
    """Return whether `name` could be a model of the hub: owner/name."""
    return name.count("/") == 1 and not name.startswith((".", "~", "/"))


def missing_model_message(name: str, is_pod: bool = False) -> str:
    """Return what is said of a model that is neither a folder nor could be one of the hub."""
    where = "no such directory here (a pod does not see a laptop's files)" if is_pod else "no such directory"
    return (
        f"model.name={name}: {where}, and not a hub id of the form owner/name "
        "(old ids without an owner have one now, such as openai-community/gpt2)"
        + ("\nput the directory into the store, and name its address (s3://...)" if is_pod else "")
    )


def needed_files(names: Iterable[str], allow_pickled: bool) -> list[str]:
    """Return which files of a model's folder a run reads: none that is hidden, of other frameworks, or pickled."""
    unused = UNUSED_PATTERNS if allow_pickled else UNUSED_PATTERNS + PICKLED_PATTERNS
    return [
        name
        for name in names
        if not any(part.startswith(".") for part in name.split("/"))
        and not any(fnmatch.fnmatch(name, pattern) for pattern in unused)
    ]


def loaded_weights(names: Iterable[str]) -> list[str]:
    """Return the weight files that transformers would load: safetensors where there are any, else pickled ones."""
    top = [name for name in names if "/" not in name]
    safe = [name for name in top if name.endswith(".safetensors")]
    return safe or [name for name in top if name.endswith(_PICKLED_ENDINGS) and name != "training_args.bin"]


def check_files(config: ModelConfig, names: Collection[str], settings: list[dict[str, Any]]) -> None:
    """Refuse a model by the names of its files and the content of `SETTINGS_FILES`.

    Raises:
        ModelError: no config.json, weights or tokenizer; pickled weights or remote code that the config does not allow.
    """
    where = f"model.name={config.name}"
    if "config.json" not in names:
        what = "holds an adapter, not a model" if "adapter_config.json" in names else "has no config.json"
        raise ModelError(f"{where} {what}; name a base model with config.json, weights and tokenizer")
    weights = loaded_weights(names)
    if not weights:
        raise ModelError(f"{where} has no weights (*.safetensors); download the whole model or name another")
    if not weights[0].endswith(".safetensors") and not config.allow_pickled_weights:
        raise ModelError(
            f"{where} has pickled weights only ({weights[0]}); unpickling runs code from the file\n"
            "convert it to safetensors, or set model.allow_pickled_weights=true if you trust it"
        )
    if any("auto_map" in setting for setting in settings) and not config.trust_remote_code:
        raise ModelError(
            f"{where} runs Python code of its own (auto_map in its configuration)\n"
            "read that code, then set model.trust_remote_code=true if you trust it, or name another model"
        )
    if not _TOKENIZER_FILES & set(names):
        raise ModelError(f"{where} has no tokenizer ({', '.join(sorted(_TOKENIZER_FILES))}); add it to the model")


def check_shards(config: ModelConfig, index: dict[str, Any], names: Collection[str]) -> None:
    """Refuse a model of which a part that its `INDEX_FILE` names is not there.

    Raises:
        ModelError: names the first three.
    """
    missing = sorted({str(name) for name in index.get("weight_map", {}).values() if name not in names})
    if missing:
        raise ModelError(
            f"model.name={config.name} lacks {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}, "
            f"which {INDEX_FILE} names; download the whole model"
        )

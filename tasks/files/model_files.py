"""Which files a base model must have, whether it is a local folder, a folder in a store, or a hub repository."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Iterable
from typing import Any

from configs.errors import ModelError
from configs.printable import one_line
from configs.schema import ModelConfig
from tasks.files.model_settings import INDEX_FILE

SETTINGS_FILES = ("config.json", "tokenizer_config.json")
"""Files of which the content is checked too, not only the name."""
UNUSED_PATTERNS = ("*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.tflite", "original/*", "*.ckpt")
"""Files of other frameworks beside a model's weights: they are neither downloaded nor uploaded."""
PICKLED_PATTERNS = ("*.bin", "*.pt", "*.pth")
"""Pickled weights: downloaded and uploaded only if the config allows them."""
_PICKLED_ENDINGS = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
TOKENIZER_FILES = {"tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt", "tekken.json"}


def is_hub_id(name: str) -> bool:
    """Return whether `name` has the form of a hub id, owner/name."""
    return name.count("/") == 1 and not name.startswith((".", "~", "/")) and not name.endswith("/")


def missing_model_message(name: str, is_pod: bool = False) -> str:
    """Return the error message for a model that is neither a folder nor has the form of a hub id."""
    where = "no such directory here (a pod does not see a laptop's files)" if is_pod else "no such directory"
    return (
        f"model.name={name}: {where}, and not a hub id of the form owner/name "
        "(old ids without an owner have one now, such as openai-community/gpt2)"
        + ("\nput the directory into the store, and name its address (s3://...)" if is_pod else "")
    )


def needed_files(names: Iterable[str], allow_pickled: bool) -> list[str]:
    """Return the files of a model's folder that a run reads.

    Hidden files and files of other frameworks are left out, and pickled ones unless `allow_pickled`.
    """
    unused = UNUSED_PATTERNS if allow_pickled else UNUSED_PATTERNS + PICKLED_PATTERNS
    return [
        name
        for name in names
        if not any(part.startswith(".") for part in name.split("/"))
        and not any(fnmatch.fnmatch(name, pattern) for pattern in unused)
    ]


def loaded_weights(names: Iterable[str]) -> list[str]:
    """Return the weight files that transformers would load: safetensors if there are any, else pickled ones."""
    top = [name for name in names if "/" not in name]
    safe = [name for name in top if name.endswith(".safetensors")]
    return safe or [name for name in top if name.endswith(_PICKLED_ENDINGS) and name != "training_args.bin"]


def check_files(config: ModelConfig, names: Collection[str], settings: list[dict[str, Any]]) -> None:
    """Check a model by the names of its files and the content of its `SETTINGS_FILES`.

    Raises:
        ModelError: config.json, weights or tokenizer are missing, or the config does not allow the model's pickled
            weights or remote code.
    """
    where = f"model.name={one_line(config.name)}"
    if "config.json" not in names:
        fault = "holds an adapter, not a model" if "adapter_config.json" in names else "has no config.json"
        raise ModelError(f"{where} {fault}; name a base model with config.json, weights and tokenizer")
    weights = loaded_weights(names)
    if not weights:
        raise ModelError(f"{where} has no weights (*.safetensors); download the whole model or name another")
    if not weights[0].endswith(".safetensors") and not config.allow_pickled_weights:
        raise ModelError(
            f"{where} has pickled weights only ({one_line(weights[0])}); unpickling runs code from the file\n"
            "convert it to safetensors, or set model.allow_pickled_weights=true if you trust it"
        )
    if any("auto_map" in setting for setting in settings) and not config.trust_remote_code:
        raise ModelError(
            f"{where} runs Python code of its own (auto_map in its configuration)\n"
            "read that code, then set model.trust_remote_code=true if you trust it, or name another model"
        )
    if not TOKENIZER_FILES & set(names):
        raise ModelError(f"{where} has no tokenizer ({', '.join(sorted(TOKENIZER_FILES))}); add it to the model")


def check_shards(config: ModelConfig, index: dict[str, Any], names: Collection[str]) -> None:
    """Check that every weight file that the model's index names is there.

    Raises:
        ModelError: weight files are missing; names the first three.
    """
    missing = sorted({name for name in (index.get("weight_map") or {}).values() if name not in names})
    if missing:
        raise ModelError(
            f"model.name={one_line(config.name)} lacks "
            f"{one_line(', '.join(missing[:3]))}{', ...' if len(missing) > 3 else ''}, "
            f"which {INDEX_FILE} names; download the whole model"
        )

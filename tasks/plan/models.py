"""Checks of the base model's files before anything is loaded: weights there, safe, whole, and no surprise code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.embedded.names import EMBEDDED_MODEL
from configs.errors import ConfigError, HubError, ModelError
from configs.schema import ModelConfig

_PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_INDEX = "model.safetensors.index.json"
_TOKENIZER_FILES = {"tokenizer.json", "tokenizer.model", "vocab.json", "spiece.model", "vocab.txt", "tekken.json"}


@dataclass(frozen=True)
class ResolvedModel:
    """A model that passed the checks. `weight_bytes` is the size of its weight files, `settings` its config.json."""

    revision: str
    weight_bytes: int
    settings: dict[str, Any] = field(default_factory=dict)


def resolve_model(config: ModelConfig, token: str | None) -> ResolvedModel:
    """Check the base model and return its revision: a commit, or a hash of the directory's content.

    Raises:
        ModelError: no such model, no weights, pickled weights or remote code that the config does not allow.
        HubError: the hub cannot be reached or refuses access.
    """
    if not config.name:
        raise ConfigError("config: model.name is missing; it has no default (only prepare_data works without a model)")
    if config.name.startswith("embedded:") and config.name != EMBEDDED_MODEL:
        raise ModelError(f"model.name={config.name} is not an embedded model; the only one is {EMBEDDED_MODEL}")
    directory = Path(config.name).expanduser()
    if config.revision is not None and (config.name == EMBEDDED_MODEL or directory.exists()):
        raise ConfigError(
            f"model.revision={config.revision} is for models of the hub, and {config.name} is not one; remove it"
        )
    if config.name == EMBEDDED_MODEL:
        return ResolvedModel("embedded", 8 * 2**20)
    if directory.exists():
        return _resolve_directory(config, directory)
    if config.name.count("/") != 1 or config.name.startswith((".", "~", "/")):
        raise ModelError(
            f"model.name={config.name}: no such directory, and not a hub id of the form owner/name "
            "(old ids without an owner have one now, such as openai-community/gpt2)"
        )
    return _resolve_hub_model(config, token)


def _resolve_directory(config: ModelConfig, directory: Path) -> ResolvedModel:
    if not directory.is_dir():
        raise ModelError(f"model.name={config.name} is a file; name the directory that holds config.json and weights")
    sizes = {
        file.relative_to(directory).as_posix(): file.stat().st_size
        for file in sorted(directory.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(directory).parts)
    }
    settings = [_read_json(directory / name) for name in ("config.json", "tokenizer_config.json") if name in sizes]
    _check_files(config, list(sizes), settings)
    for name in _loaded_weights(sizes):
        if name.endswith(".safetensors"):
            _check_safetensors(directory / name)
    if _INDEX in sizes:
        _check_shards(config, _read_json(directory / _INDEX), sizes)
    digest = hashlib.sha256()
    for name in sizes:
        digest.update(name.encode() + b"\0")
        with open(directory / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return ResolvedModel(digest.hexdigest(), sum(sizes[name] for name in _loaded_weights(sizes)), settings[0])


def _resolve_hub_model(config: ModelConfig, token: str | None) -> ResolvedModel:
    from huggingface_hub import HfApi, hf_hub_download

    from tasks.plan.hub import explained

    with explained(f"model.name={config.name}", config.revision):
        info = HfApi(token=token or False).model_info(config.name, revision=config.revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        settings = [
            _read_json(Path(hf_hub_download(config.name, name, revision=info.sha, token=token or False)))
            for name in ("config.json", "tokenizer_config.json")
            if name in sizes
        ]
        index = (
            hf_hub_download(config.name, _INDEX, revision=info.sha, token=token or False) if _INDEX in sizes else None
        )
    if info.sha is None:
        raise HubError(f"model.name={config.name}: the hub names no commit for revision {config.revision}")
    _check_files(config, list(sizes), settings)
    if index is not None:
        _check_shards(config, _read_json(Path(index)), sizes)
    return ResolvedModel(info.sha, sum(sizes[name] for name in _loaded_weights(sizes)), settings[0])


def _loaded_weights(names: Any) -> list[str]:
    """Return the weight files that transformers would load: safetensors where there are any, else pickled ones."""
    top = [name for name in names if "/" not in name]
    safe = [name for name in top if name.endswith(".safetensors")]
    return safe or [name for name in top if name.endswith(_PICKLED) and name != "training_args.bin"]


def _check_files(config: ModelConfig, names: list[str], settings: list[dict[str, Any]]) -> None:
    """Apply the rules that hold for a directory and a hub repository alike."""
    where = f"model.name={config.name}"
    if "config.json" not in names:
        what = "holds an adapter, not a model" if "adapter_config.json" in names else "has no config.json"
        raise ModelError(f"{where} {what}; name a base model with config.json, weights and tokenizer")
    weights = _loaded_weights(names)
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


def _check_shards(config: ModelConfig, index: dict[str, Any], names: Container[str]) -> None:
    """Refuse a model of which a part that its index names is not there."""
    missing = sorted({str(name) for name in index.get("weight_map", {}).values() if name not in names})
    if missing:
        raise ModelError(
            f"model.name={config.name} lacks {', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}, "
            f"which {_INDEX} names; download the whole model"
        )


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is cut short or damaged ({error}); copy it again") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise ModelError(f"{path} is not readable JSON ({error}); copy it again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object; copy it again")
    return content

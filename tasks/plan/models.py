"""Checks of the base model's files before anything is loaded: weights there, safe, whole, and no surprise code."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.embedded.names import EMBEDDED_MODEL
from configs.errors import ConfigError, HubError, ModelError
from configs.model_files import (
    INDEX,
    SETTINGS,
    check_files,
    check_shards,
    is_hub_id,
    loaded_weights,
    needed_files,
    no_such_model,
)
from configs.places import is_pod
from configs.schema import ModelConfig
from configs.stored_folder import StoredFile, folder_revision, read_range, stored_files
from configs.streams import is_remote, shown


@dataclass(frozen=True)
class ResolvedModel:
    """A model that passed the checks. `weight_bytes` is the size of its weight files, `settings` its config.json."""

    revision: str
    weight_bytes: int
    settings: dict[str, Any] = field(default_factory=dict)


def resolve_model(config: ModelConfig, token: str | None) -> ResolvedModel:
    """Check the base model and return its revision: a commit, or a hash of what the directory or address holds.

    Raises:
        ModelError: no such model, no weights, pickled weights or remote code that the config does not allow.
        HubError: the hub cannot be reached or refuses access.
    """
    if not config.name:
        raise ConfigError("config: model.name is missing; it has no default (only prepare_data works without a model)")
    if config.name.startswith("embedded:") and config.name != EMBEDDED_MODEL:
        raise ModelError(f"model.name={config.name} is not an embedded model; the only one is {EMBEDDED_MODEL}")
    directory = Path(config.name).expanduser()
    is_of_hub = not (config.name == EMBEDDED_MODEL or is_remote(config.name) or directory.exists())
    if config.revision is not None and not is_of_hub:
        raise ConfigError(
            f"model.revision={config.revision} is for models of the hub, and {shown(config.name)} is not one; remove it"
        )
    if config.name == EMBEDDED_MODEL:
        return ResolvedModel("embedded", 8 * 2**20)
    if is_remote(config.name):
        return _resolve_address(config)
    if directory.exists():
        return _resolve_directory(config, directory)
    if not is_hub_id(config.name):
        raise ModelError(no_such_model(config.name, is_pod()))
    return _resolve_hub_model(config, token)


def _resolve_address(config: ModelConfig) -> ResolvedModel:
    """Check a model in a store without fetching it: names, sizes, settings, and the header of each weight file."""
    found = stored_files(config.name)
    files = {name: found[name] for name in needed_files(found, config.allow_pickled_weights)}
    settings = [_stored_json(config, name, files[name]) for name in SETTINGS if name in files]
    # of all files, so that a refusal can say what kind of weights there are
    check_files(config, list(found), settings)
    weights = loaded_weights(files)
    for name in weights:
        if name.endswith(".safetensors"):
            _check_stored_safetensors(config, name, files[name])
    if INDEX in files:
        check_shards(config, _stored_json(config, INDEX, files[INDEX]), files)
    return ResolvedModel(folder_revision(files), sum(files[name].size for name in weights), settings[0])


def _stored_json(config: ModelConfig, name: str, file: StoredFile) -> dict[str, Any]:
    return _parse_json(read_range(config.name, file), f"{shown(config.name)}/{name}")


def _check_stored_safetensors(config: ModelConfig, name: str, file: StoredFile) -> None:
    """Refuse a file that is not as long as its header says (https://github.com/huggingface/safetensors#format)."""
    where = f"{shown(config.name)}/{name}"
    try:
        length = int.from_bytes(read_range(config.name, file, 0, 8), "little")
        if length > file.size - 8:
            raise ValueError("its header is longer than the file")
        header = json.loads(read_range(config.name, file, 8, 8 + length))
        end = max((tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"), default=0)
        if 8 + length + end != file.size:
            raise ValueError(f"it has {file.size} bytes of {8 + length + end}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{where} is cut short or damaged ({error}); copy it again") from None


def _resolve_directory(config: ModelConfig, directory: Path) -> ResolvedModel:
    if not directory.is_dir():
        raise ModelError(f"model.name={config.name} is a file; name the directory that holds config.json and weights")
    sizes = {
        file.relative_to(directory).as_posix(): file.stat().st_size
        for file in sorted(directory.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(directory).parts)
    }
    settings = [_read_json(directory / name) for name in SETTINGS if name in sizes]
    check_files(config, list(sizes), settings)
    for name in loaded_weights(sizes):
        if name.endswith(".safetensors"):
            _check_safetensors(directory / name)
    if INDEX in sizes:
        check_shards(config, _read_json(directory / INDEX), sizes)
    digest = hashlib.sha256()
    for name in sizes:
        digest.update(name.encode() + b"\0")
        with open(directory / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return ResolvedModel(digest.hexdigest(), sum(sizes[name] for name in loaded_weights(sizes)), settings[0])


def _resolve_hub_model(config: ModelConfig, token: str | None) -> ResolvedModel:
    from huggingface_hub import HfApi, hf_hub_download

    from tasks.plan.hub import explained

    with explained(f"model.name={config.name}", config.revision):
        info = HfApi(token=token or False).model_info(config.name, revision=config.revision, files_metadata=True)
        sizes = {file.rfilename: file.size or 0 for file in info.siblings or []}
        settings = [
            _read_json(Path(hf_hub_download(config.name, name, revision=info.sha, token=token or False)))
            for name in SETTINGS
            if name in sizes
        ]
        index = hf_hub_download(config.name, INDEX, revision=info.sha, token=token or False) if INDEX in sizes else None
    if info.sha is None:
        raise HubError(f"model.name={config.name}: the hub names no commit for revision {config.revision}")
    check_files(config, list(sizes), settings)
    if index is not None:
        check_shards(config, _read_json(Path(index)), sizes)
    return ResolvedModel(info.sha, sum(sizes[name] for name in loaded_weights(sizes)), settings[0])


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path} is cut short or damaged ({error}); copy it again") from None


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return _parse_json(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelError(f"{path} cannot be read ({error.strerror}); copy it again") from None


def _parse_json(content: bytes, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except ValueError as error:
        raise ModelError(f"{where} is not readable JSON ({error}); copy it again") from None
    if not isinstance(parsed, dict):
        raise ModelError(f"{where} is not a JSON object; copy it again")
    return parsed

"""Checks the base model's files before anything is loaded: weights are there, safe and complete."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.addresses import first_line, shown_address
from configs.embedded.names import EMBEDDED_MODEL
from configs.errors import ConfigError, HubError, ModelError
from configs.foreign_json import JsonFault, parse_object
from configs.foreign_yaml import MAX_BYTES
from configs.printable import one_line
from configs.schema import ModelConfig
from tasks.files.front_matter import split_card
from tasks.files.model_files import (
    SETTINGS_FILES,
    check_files,
    check_shards,
    is_hub_id,
    loaded_weights,
    missing_model_message,
    needed_files,
)
from tasks.files.model_settings import CHECKED_FILES, INDEX_FILE, VOCABULARY_FILE, check_size, settings_of
from tasks.files.places import is_pod
from tasks.files.stored_folder import StoredFile, folder_revision, read_range, stored_files
from tasks.files.streams import is_remote
from tasks.plan.resolve.headers import HEADER_BYTES, header_of, hub_header, local_header

NOT_STATED = "not stated"
_CARD = "README.md"


@dataclass(frozen=True)
class ResolvedModel:
    """A model that passed the checks. `weight_bytes` is the size of its weight files, `settings` its config.json.

    `license` is the one that its card names, or `not stated`.
    """

    revision: str
    weight_bytes: int
    settings: dict[str, Any] = field(default_factory=dict)
    license: str = NOT_STATED


@dataclass(frozen=True)
class ModelFiles:
    """The files that `model.name` points to, wherever they are: sizes by name, and `read` for small files.

    `settings` holds the contents of those of `SETTINGS_FILES` that exist. `revision` identifies the whole content, and
    may have to read all of it. `check_weights` checks one weight file, and
    `read_header` returns the header of one of safetensors: names with types and shapes. `place` stands before the name
    of a file in errors.
    """

    sizes: dict[str, int]
    settings: dict[str, dict[str, Any]]
    read: Callable[[str], bytes]
    revision: Callable[[], str]
    check_weights: Callable[[str], None]
    read_header: Callable[[str], dict[str, Any]]
    license: str = ""
    place: str = ""

    def json(self, name: str) -> dict[str, Any]:
        """Return a file's JSON object, or an empty one if there is no such file.

        Raises:
            ModelError: it is not a JSON object, goes beyond a bound, or has a known key of a wrong type.
        """
        if name in self.settings:
            return self.settings[name]
        return _settings(self.sizes, self.read, name, f"{self.place}{name}") if name in self.sizes else {}


EMBEDDED = ResolvedModel("embedded", 8 * 2**20, license="that of this project")


def find_model(config: ModelConfig, token: str | None) -> ModelFiles | None:
    """Return the files of the base model, or None for the embedded one, which the run itself creates.

    Raises:
        ConfigError: the config has no name, or a revision for a model that is not on the hub.
        ModelError: there is no such model, or its settings are not JSON.
        HubError: the hub cannot be reached or refuses access.
    """
    if not config.name:
        raise ConfigError(
            "config: model.name is missing; it has no default: set it (only prepare_data works without a model)"
        )
    if config.name.startswith("embedded:") and config.name != EMBEDDED_MODEL:
        raise ModelError(f"model.name={config.name} is not an embedded model; the only one is {EMBEDDED_MODEL}")
    directory = Path(config.name).expanduser()
    is_on_hub = not (config.name == EMBEDDED_MODEL or is_remote(config.name) or directory.exists())
    if config.revision is not None and not is_on_hub:
        raise ConfigError(
            f"model.revision={config.revision} is for models of the hub, and {shown_address(config.name)} is not one; "
            "remove it"
        )
    if config.name == EMBEDDED_MODEL:
        return None
    if is_remote(config.name):
        return _stored_model(config)
    if directory.exists():
        return _local_model(config, directory)
    if not is_hub_id(config.name):
        raise ModelError(missing_model_message(config.name, is_pod()))
    return _hub_model(config, token)


def check_model(config: ModelConfig, files: ModelFiles) -> ResolvedModel:
    """Check that the model is complete and that `config` allows to load it; return it with its revision.

    Raises:
        ModelError: weights are missing, or there are pickled weights or remote code that the config does not allow; a
            file that transformers would parse is no JSON object, or goes beyond a bound.
    """
    check_files(config, list(files.sizes), list(files.settings.values()))
    weights = loaded_weights(files.sizes)
    for name in weights:
        if name.endswith(".safetensors"):
            files.check_weights(name)
    for name in CHECKED_FILES:
        # a vocabulary may be large, and is checked when the model is fetched
        if name != VOCABULARY_FILE:
            files.json(name)
    if INDEX_FILE in files.sizes:
        check_shards(config, files.json(INDEX_FILE), files.sizes)
    size = sum(files.sizes[name] for name in weights)
    return ResolvedModel(files.revision(), size, files.settings["config.json"], license_of(files))


def license_of(files: ModelFiles) -> str:
    """Return the license that the model's card names, by the hub's identifier, or `not stated`."""
    if files.license or _CARD not in files.sizes:
        return files.license or NOT_STATED
    if files.sizes[_CARD] > MAX_BYTES:
        return NOT_STATED
    card, _ = split_card(files.read(_CARD).decode("utf-8", "replace"))
    stated = card.get("license_name") or card.get("license")
    return " or ".join(map(str, stated if isinstance(stated, list) else [stated])) if stated else NOT_STATED


def _stored_model(config: ModelConfig) -> ModelFiles:
    """Return the files of a model in a store without downloading the weights; `check_weights` reads their headers."""
    stored = stored_files(config.name)
    files = {name: stored[name] for name in needed_files(stored, config.allow_pickled_weights)}
    # of all files, so that an error can name the kind of weights found
    sizes = {name: file.size for name, file in stored.items()}

    def read(name: str) -> bytes:
        return read_range(config.name, stored[name])

    return ModelFiles(
        sizes=sizes,
        settings={
            name: _settings(sizes, read, name, f"{shown_address(config.name)}/{name}")
            for name in SETTINGS_FILES
            if name in files
        },
        read=read,
        revision=lambda: folder_revision(files),
        check_weights=lambda name: _check_stored_safetensors(config, name, stored[name]),
        read_header=lambda name: header_of(
            lambda start, end: read_range(config.name, stored[name], start, end), f"{shown_address(config.name)}/{name}"
        ),
        place=f"{shown_address(config.name)}/",
    )


def _check_stored_safetensors(config: ModelConfig, name: str, file: StoredFile) -> None:
    """Refuse a file whose length differs from what its header says (https://github.com/huggingface/safetensors#format)."""
    where = f"{shown_address(config.name)}/{one_line(name)}"
    try:
        length = int.from_bytes(read_range(config.name, file, 0, 8), "little")
        if length > file.size - 8:
            raise ValueError("its header is longer than the file")
        header = parse_object(read_range(config.name, file, 8, 8 + min(length, HEADER_BYTES + 1)), HEADER_BYTES)
        end = max((tensor["data_offsets"][1] for key, tensor in header.items() if key != "__metadata__"), default=0)
        if 8 + length + end != file.size:
            raise ValueError(f"it has {file.size} bytes of {8 + length + end}")
    except JsonFault as fault:
        raise ModelError(f"{where} is cut short or damaged (its header {fault}); copy it again") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ModelError(f"{where} is cut short or damaged ({first_line(error)}); copy it again") from None


def _local_model(config: ModelConfig, directory: Path) -> ModelFiles:
    if not directory.is_dir():
        raise ModelError(f"model.name={config.name} is a file; name the directory that holds config.json and weights")
    sizes = {
        file.relative_to(directory).as_posix(): file.stat().st_size
        for file in sorted(directory.rglob("*"))
        if file.is_file() and not any(part.startswith(".") for part in file.relative_to(directory).parts)
    }

    def read(name: str) -> bytes:
        return _read_bytes(directory / name)

    return ModelFiles(
        sizes=sizes,
        settings={
            name: _settings(sizes, read, name, str(directory / name)) for name in SETTINGS_FILES if name in sizes
        },
        read=read,
        revision=lambda: _folder_hash(directory, sizes),
        check_weights=lambda name: _check_safetensors(directory / name),
        read_header=lambda name: local_header(directory / name),
        place=f"{directory}/",
    )


def _folder_hash(directory: Path, names: Iterable[str]) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(name.encode() + b"\0")
        with open(directory / name, "rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()


def _hub_model(config: ModelConfig, token: str | None) -> ModelFiles:
    from huggingface_hub import HfApi, hf_hub_download

    from tasks.plan.resolve.hub import answered, explain_hub_errors

    subject = f"model.name={config.name}"
    with explain_hub_errors(subject, config.revision):
        info = HfApi(token=token or False).model_info(config.name, revision=config.revision, files_metadata=True)
        sizes = {answered(file.rfilename, str): answered(file.size or 0, int) for file in info.siblings or []}
        tags = [tag.removeprefix("license:") for tag in info.tags or [] if tag.startswith("license:")]
        commit = answered(info.sha or "", str)
    if not commit:
        raise HubError(f"{subject}: the hub names no commit for revision {config.revision}")

    def read(name: str) -> bytes:
        with explain_hub_errors(subject, config.revision):
            return Path(hf_hub_download(config.name, name, revision=commit, token=token or False)).read_bytes()

    return ModelFiles(
        sizes=sizes,
        settings={name: _settings(sizes, read, name, f"{subject}: {name}") for name in SETTINGS_FILES if name in sizes},
        read=read,
        revision=lambda: commit,
        # files of a hub commit are complete
        check_weights=lambda name: None,
        read_header=lambda name: hub_header(config.name, name, commit, token),
        license=tags[0] if tags else "",
        place=f"{subject}: ",
    )


def _check_safetensors(path: Path) -> None:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np") as file:
            file.keys()
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{one_line(path)} is cut short or damaged ({first_line(error)}); copy it again") from None


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"{one_line(path)} cannot be read ({error.strerror}); copy it again") from None


def _settings(sizes: dict[str, int], read: Callable[[str], bytes], name: str, where: str) -> dict[str, Any]:
    check_size(name, sizes[name], where)
    return settings_of(read(name), name, where)

"""Finds the local files that a config names, and replaces their paths with addresses once they are uploaded.

A pod does not see a laptop's files, so they are uploaded before a run starts on a cluster (tasks/runtime/uploads.py).
The upload keeps their folder tree: an address stands for the same files in the same order, and reports show the same
names.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from configs.embedded.names import EMBEDDED_MODEL
from configs.errors import ConfigError, DataError, ModelError
from configs.printable import one_line
from configs.schema import FineTuneConfig, ModelConfig, RunConfig
from configs.schema.align import AlignConfig
from configs.schema.data import DataConfig, SourceConfig
from configs.schema.train import TrainConfig
from tasks.files.model_files import check_files, is_hub_id, missing_model_message, needed_files
from tasks.files.places import find_files, glob_root, is_glob
from tasks.files.streams import is_remote

Config = TypeVar("Config", bound=RunConfig)
Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class LocalPlace:
    """The local files that one setting names.

    `entries` are the values of the setting: addresses stay as they are, paths are relative to the folder that holds all
    of them. `files` are (path, name below that folder), in order. `is_list` tells whether the setting is a list.
    """

    keys: Keys
    entries: tuple[str, ...]
    files: tuple[tuple[Path, str], ...]
    is_list: bool = False

    @property
    def where(self) -> str:
        """The setting's dotted name for messages, such as data.sources[0].path."""
        return setting_name(self.keys)

    def value(self, folder: str) -> str | list[str]:
        """Return the setting's value after its files were uploaded below the address `folder`."""
        addresses = [entry if is_remote(entry) else f"{folder}/{entry}" for entry in self.entries]
        return addresses if self.is_list else addresses[0]


def setting_name(keys: Keys) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


def local_settings(config: RunConfig) -> dict[Keys, str]:
    """Return the settings that name something on this machine, by their keys, without reading the disk.

    A model name of the form of a hub id counts as one.
    """
    found: dict[Keys, str] = {}
    for keys, source in _sources(config):
        for entry in _entries(source):
            if not is_remote(entry):
                found.setdefault((*keys, "path"), entry)
    for keys, value in _single_files(config):
        found[keys] = value
    for keys, _, train in _phases(config):
        if train.tracking.folder is not None and not is_remote(train.tracking.folder):
            found[(*keys, "train", "tracking", "folder")] = train.tracking.folder
    model = _model(config)
    if model is not None and model.name and not (_is_remote_or_embedded(model.name) or is_hub_id(model.name)):
        found[("model", "name")] = model.name
    found |= {keys: name for keys, name in _others(config) if not (_is_remote_or_embedded(name) or is_hub_id(name))}
    return found


def local_places(config: RunConfig) -> list[LocalPlace]:
    """Return the settings of `config` that name something on this machine, with their files.

    A local folder is taken before a hub model of the same name, as in runs on this machine.

    Raises:
        DataError: a data file, folder or glob does not exist, or has no file with a known ending.
        ModelError: the model is neither a local folder nor has the form of a hub id, or the folder holds no model.
        ConfigError: a chat template or DeepSpeed file does not exist, or the tracker's folder is on this machine.
    """
    for keys, _, train in _phases(config):
        folder = train.tracking.folder
        if folder is not None and not is_remote(folder):
            where = setting_name((*keys, "train", "tracking", "folder"))
            raise ConfigError(
                f"{where}={one_line(folder)} is on this machine, and no pod can write to it\n"
                "name an address (s3://...), or leave it out for the execution's own store"
            )
    _check_harness(config)
    places = [_data_place((*keys, "path"), source) for keys, source in _sources(config) if _has_local_entry(source)]
    places += [_file_place(keys, value) for keys, value in _single_files(config)]
    model = _model(config)
    if model is not None and model.name and not _is_remote_or_embedded(model.name):
        directory = Path(model.name).expanduser()
        if directory.exists():
            places.append(_model_place(directory, model))
        elif not is_hub_id(model.name):
            raise ModelError(missing_model_message(model.name))
    for keys, name in _others(config):
        directory = Path(name).expanduser()
        if not _is_remote_or_embedded(name) and (directory.exists() or not is_hub_id(name)):
            places.append(_other_place(keys, name, directory, config))
    return places


def with_values(config: Config, values: dict[Keys, str | list[str]]) -> Config:
    """Return `config` with the given values for the settings of these keys."""
    content = config.model_dump(mode="json")
    for keys, value in values.items():
        section: Any = content
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value
    return type(config).model_validate_json(json.dumps(content))


def _phases(config: RunConfig) -> list[tuple[Keys, DataConfig, TrainConfig]]:
    if isinstance(config, FineTuneConfig):
        return [((), config.data, config.train)]
    assert isinstance(config, AlignConfig)
    return [((name,), getattr(config, name).data, getattr(config, name).train) for name in config.phases()]


def _sources(config: RunConfig) -> Iterator[tuple[Keys, SourceConfig]]:
    for keys, data, _ in _phases(config):
        for section in ("sources", "evaluation", "contamination"):
            for number, source in enumerate(getattr(data, section)):
                yield (*keys, "data", section, number), source


def _single_files(config: RunConfig) -> Iterator[tuple[Keys, str]]:
    """Yield the settings that name a single local file."""
    assert isinstance(config, FineTuneConfig | AlignConfig)
    found: list[tuple[Keys, str | None]] = [(("tokenize", "chat_template"), config.tokenize.chat_template)]
    found += [((*keys, "train", "deepspeed", "config"), train.deepspeed.config) for keys, _, train in _phases(config)]
    retained = config.evaluate.retained
    for name in ("general_text", "unsafe_prompts", "harmless_prompts"):
        value = getattr(retained, name)
        if value is not None and value != "none" and not value.startswith("embedded:"):
            found.append((("evaluate", "retained", name), value))
    for keys, value in found:
        if value is not None and not is_remote(value):
            yield keys, value


def _model(config: RunConfig) -> ModelConfig | None:
    return config.model if isinstance(config, FineTuneConfig | AlignConfig) else None


def _others(config: RunConfig) -> Iterator[tuple[Keys, str]]:
    """Yield the models and adapters of `evaluate.others`."""
    assert isinstance(config, FineTuneConfig | AlignConfig)
    for number, other in enumerate(config.evaluate.others):
        for setting, name in (("model", other.model), ("adapter", other.adapter)):
            if name:
                yield ("evaluate", "others", number, setting), name


def _is_remote_or_embedded(name: str) -> bool:
    return is_remote(name) or name == EMBEDDED_MODEL or name.startswith("embedded:")


def _entries(source: SourceConfig) -> list[str]:
    if not source.reads_files or source.path is None:
        return []
    return [source.path] if isinstance(source.path, str) else source.path


def _has_local_entry(source: SourceConfig) -> bool:
    return any(not is_remote(entry) for entry in _entries(source))


def _data_place(keys: Keys, source: SourceConfig) -> LocalPlace:
    entries = _entries(source)
    local = [entry for entry in entries if not is_remote(entry)]
    try:
        files = [Path(file.path).absolute() for file in find_files(local)]
    except DataError as error:
        raise DataError(f"{setting_name(keys)}={error}") from None
    paths = {entry: _normal(entry) for entry in local}
    folder = os.path.commonpath([_folder_of(path) for path in paths.values()])
    relative = {entry: _relative(path, folder) for entry, path in paths.items()}
    return LocalPlace(
        keys,
        tuple(relative.get(entry, entry) for entry in entries),
        tuple((file, _relative(os.path.normpath(file), folder)) for file in files),
        is_list=isinstance(source.path, list),
    )


def _normal(entry: str) -> str:
    return os.path.abspath(Path(entry.removeprefix("file://")).expanduser())  # noqa: PTH100 keeps links


def _folder_of(path: str) -> str:
    """Return the folder that holds a file or folder, or the part of a glob before its first wildcard."""
    return glob_root(path) or "/" if is_glob(path) and not Path(path).exists() else str(Path(path).parent)


def _relative(path: str, folder: str) -> str:
    name = os.path.relpath(path, folder)
    if is_glob(name) and not Path(path).exists():
        # `**.jsonl` means `*.jsonl` on a disk, and nothing at an address
        return "/".join(part if part == "**" else part.replace("**", "*") for part in name.split("/"))
    return name


def _check_harness(config: RunConfig) -> None:
    """Refuse a task of the harness whose YAML is on this machine: its data and code lie beside it."""
    assert isinstance(config, FineTuneConfig | AlignConfig)
    for number, task in enumerate(config.evaluate.retained.harness):
        if task.task.endswith((".yaml", ".yml")):
            where = setting_name(("evaluate", "retained", "harness", number, "task"))
            raise ConfigError(
                f"{where}={one_line(task.task)} is on this machine, and no pod can read it\n"
                "name a task that lm-evaluation-harness has, or run on this machine"
            )


_KINDS_OF_FILES = {
    "chat_template": "a Jinja chat template",
    "config": "a JSON file of DeepSpeed settings",
    "general_text": "a text file",
    "unsafe_prompts": "a JSONL file of prompts",
    "harmless_prompts": "a JSONL file of prompts",
}


def _file_place(keys: Keys, value: str) -> LocalPlace:
    path = Path(value).expanduser()
    if not path.is_file():
        kind = _KINDS_OF_FILES.get(str(keys[-1]), "a file")
        raise ConfigError(f"{setting_name(keys)}={value} does not exist (looked in {Path.cwd()}); name {kind}")
    return LocalPlace(keys, (path.name,), ((path.absolute(), path.name),))


def _model_place(directory: Path, config: ModelConfig) -> LocalPlace:
    if not directory.is_dir():
        raise ModelError(f"model.name={config.name} is a file; name the directory that holds config.json and weights")
    # refuses here what the plan would refuse after the upload; remote code is left to the plan
    check_files(config, _names_below(directory), [])
    return _folder_place(("model", "name"), directory, config.allow_pickled_weights)


def _other_place(keys: Keys, name: str, directory: Path, config: RunConfig) -> LocalPlace:
    model = _model(config)
    if not directory.is_dir():
        raise ModelError(
            f"{setting_name(keys)}={one_line(name)}: no such folder on this machine; name the one it is in"
        )
    return _folder_place(keys, directory, model is not None and model.allow_pickled_weights)


def _names_below(directory: Path) -> list[str]:
    root = Path(os.path.abspath(directory))  # noqa: PTH100
    return sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())


def _folder_place(keys: Keys, directory: Path, allow_pickled: bool) -> LocalPlace:
    root = Path(os.path.abspath(directory))  # noqa: PTH100
    kept = needed_files(_names_below(directory), allow_pickled)
    return LocalPlace(keys, (root.name,), tuple((root / name, f"{root.name}/{name}") for name in kept))

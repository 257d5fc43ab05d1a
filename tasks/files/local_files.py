"""What a config names on this machine: the files behind it, and the config with their addresses elsewhere in its place.

A pod does not see a laptop's files. Before a run starts on a cluster they are uploaded (tasks/runtime/uploads.py), in
the tree in which they lie,
so that an address stands for the same files in the same order and reports call them the same.
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
from configs.schema import FineTuneConfig, ModelConfig, RunConfig
from configs.schema.align import AlignConfig
from configs.schema.data import DataConfig, SourceConfig
from configs.schema.train import TrainConfig
from tasks.files.model_files import check_files, is_hub_id, needed_files, no_such_model
from tasks.files.places import find_files, fixed_part, is_glob
from tasks.files.streams import is_remote

Config = TypeVar("Config", bound=RunConfig)
Keys = tuple[str | int, ...]


@dataclass(frozen=True)
class LocalPlace:
    """What one setting names on this machine.

    `entries` are its values, each relative to the folder in which all of them lie or an address already; `files` are
    (path, name below that folder), in order. `is_list` tells whether the setting is a list of places.
    """

    keys: Keys
    entries: tuple[str, ...]
    files: tuple[tuple[Path, str], ...]
    is_list: bool = False

    @property
    def where(self) -> str:
        """The setting as messages name it, such as data.sources[0].path."""
        return in_words(self.keys)

    def value(self, folder: str) -> str | list[str]:
        """Return what the setting is once the files lie below the address `folder`."""
        places = [each if is_remote(each) else f"{folder}/{each}" for each in self.entries]
        return places if self.is_list else places[0]


def in_words(keys: Keys) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in keys).lstrip(".")


def local_settings(config: RunConfig) -> dict[Keys, str]:
    """Return the settings that name something on this machine, by their keys, without a look at the disk.

    A model called like a hub id is taken for one.
    """
    found: dict[Keys, str] = {}
    for keys, source in _sources(config):
        for entry in _entries(source):
            if not is_remote(entry):
                found.setdefault((*keys, "path"), entry)
    for keys, value in _single_files(config):
        found[keys] = value
    for keys, _, train in _stages(config):
        if train.tracking.folder is not None and not is_remote(train.tracking.folder):
            found[(*keys, "train", "tracking", "folder")] = train.tracking.folder
    model = _model(config)
    if model is not None and model.name and not (_is_elsewhere(model.name) or is_hub_id(model.name)):
        found[("model", "name")] = model.name
    return found


def local_places(config: RunConfig) -> list[LocalPlace]:
    """Return what `config` names on this machine, with its files.

    A folder that is called like a model of the hub is the folder, as it is for runs on this machine.

    Raises:
        DataError: a data file, folder or glob that does not exist or has no file to read.
        ModelError: a model that is neither a folder here nor could be one of the hub; a folder that is no model.
        ConfigError: a chat template or DeepSpeed file that does not exist; a tracker's folder on this machine.
    """
    for keys, _, train in _stages(config):
        folder = train.tracking.folder
        if folder is not None and not is_remote(folder):
            where = in_words((*keys, "train", "tracking", "folder"))
            raise ConfigError(
                f"{where}={folder} is of this machine, and no pod can write to it\n"
                "name an address (s3://...), or leave it out for the execution's own store"
            )
    places = [_data_place((*keys, "path"), source) for keys, source in _sources(config) if _has_local_entry(source)]
    places += [_file_place(keys, value) for keys, value in _single_files(config)]
    model = _model(config)
    if model is not None and model.name and not _is_elsewhere(model.name):
        directory = Path(model.name).expanduser()
        if directory.exists():
            places.append(_model_place(directory, model))
        elif not is_hub_id(model.name):
            raise ModelError(no_such_model(model.name))
    return places


def with_values(config: Config, values: dict[Keys, str | list[str]]) -> Config:
    """Return `config` with other values for the settings of these keys."""
    content = config.model_dump(mode="json")
    for keys, value in values.items():
        section: Any = content
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value
    return type(config).model_validate_json(json.dumps(content))


def _stages(config: RunConfig) -> list[tuple[Keys, DataConfig, TrainConfig]]:
    if isinstance(config, FineTuneConfig):
        return [((), config.data, config.train)]
    assert isinstance(config, AlignConfig)
    return [((name,), getattr(config, name).data, getattr(config, name).train) for name in config.phases()]


def _sources(config: RunConfig) -> Iterator[tuple[Keys, SourceConfig]]:
    for keys, data, _ in _stages(config):
        for section in ("sources", "evaluation", "contamination"):
            for number, source in enumerate(getattr(data, section)):
                yield (*keys, "data", section, number), source


def _single_files(config: RunConfig) -> Iterator[tuple[Keys, str]]:
    """Yield the settings that name one file of this machine."""
    assert isinstance(config, FineTuneConfig | AlignConfig)
    found: list[tuple[Keys, str | None]] = [(("tokenize", "chat_template"), config.tokenize.chat_template)]
    found += [((*keys, "train", "deepspeed", "config"), train.deepspeed.config) for keys, _, train in _stages(config)]
    for keys, value in found:
        if value is not None and not is_remote(value):
            yield keys, value


def _model(config: RunConfig) -> ModelConfig | None:
    return config.model if isinstance(config, FineTuneConfig | AlignConfig) else None


def _is_elsewhere(name: str) -> bool:
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
        raise DataError(f"{in_words(keys)}={error}") from None
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
    return os.path.abspath(Path(entry.removeprefix("file://")).expanduser())  # noqa: PTH100 links stay as they are


def _folder_of(path: str) -> str:
    """Return the folder above a file or folder, or that in which a glob's first wildcard stands."""
    return fixed_part(path) or "/" if is_glob(path) and not Path(path).exists() else str(Path(path).parent)


def _relative(path: str, folder: str) -> str:
    name = os.path.relpath(path, folder)
    if is_glob(name) and not Path(path).exists():
        # `**.jsonl` means `*.jsonl` here, and nothing at an address
        return "/".join(part if part == "**" else part.replace("**", "*") for part in name.split("/"))
    return name


def _file_place(keys: Keys, value: str) -> LocalPlace:
    path = Path(value).expanduser()
    if not path.is_file():
        kind = "a Jinja chat template" if keys[-1] == "chat_template" else "a JSON file of DeepSpeed's"
        raise ConfigError(f"{in_words(keys)}={value} does not exist (looked in {Path.cwd()}); name {kind}")
    return LocalPlace(keys, (path.name,), ((path.absolute(), path.name),))


def _model_place(directory: Path, config: ModelConfig) -> LocalPlace:
    if not directory.is_dir():
        raise ModelError(f"model.name={config.name} is a file; name the directory that holds config.json and weights")
    root = Path(os.path.abspath(directory))  # noqa: PTH100
    names = sorted(file.relative_to(root).as_posix() for file in root.rglob("*") if file.is_file())
    # a model that the plan would refuse is not uploaded first; its code is the plan's to refuse
    check_files(config, names, [])
    kept = needed_files(names, config.allow_pickled_weights)
    return LocalPlace(("model", "name"), (root.name,), tuple((root / name, f"{root.name}/{name}") for name in kept))

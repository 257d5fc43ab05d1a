"""Checks that a run writes nothing over what it reads, before it writes anything.

Paths are compared with all links resolved. An input that the run's own outputs would add to counts too: its rows would
be others at every run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path, PurePath

from configs.artifacts import repository_of
from configs.errors import ConfigError
from configs.printable import one_line
from configs.schema import FineTuneConfig, ModelConfig, PushConfig, RunConfig
from configs.schema.align import AlignConfig
from tasks.files.local_files import local_settings, setting_name
from tasks.files.places import FILE_ENDINGS, glob_root, is_glob
from tasks.files.streams import is_remote

_COMMIT = re.compile(r"[0-9a-f]{40}")
# files with rows that a run leaves in its folder
_WRITTEN = ("train.jsonl", "metrics.json", "data.txt")


def check_apart(config: RunConfig) -> None:
    """Compare what a run on this machine reads with its output folder, and its base with the repository it pushes to.

    Raises:
        ConfigError: the first input that the run would write over, or that its outputs would be added to.
    """
    assert isinstance(config, FineTuneConfig | AlignConfig)
    check_repository(config.model, config.push_to_hub)
    place = Path(config.output_directory) / config.name
    for keys, value in _inputs(config):
        where, shown = f"{setting_name(keys)}={one_line(value)}", one_line(place)
        if _lies_in(value, place):
            raise ConfigError(
                f"{where} lies in {shown}, the folder that this run writes to; choose another `name`, or move it"
            )
        if keys[-1] == "path" and _would_find(value, place):
            raise ConfigError(
                f"{where} would find what this run writes to {shown}; name the files, or set output_directory to a "
                "folder elsewhere"
            )
        if keys[-1] == "name" and _is_below(_real(place), _real(Path(value))):
            raise ConfigError(
                f"output_directory={one_line(config.output_directory)} lies in {where}; set it to a folder elsewhere"
            )


def check_repository(model: ModelConfig, push: PushConfig) -> None:
    """Check that no artifact is pushed to the repository of the base model, which the next run would start from.

    A base that is named by its commit stays what it is.

    Raises:
        ConfigError: it would be.
    """
    if push.repository is None or _COMMIT.fullmatch(model.revision or ""):
        return
    for artifact in push.artifacts:
        target = repository_of(push.repository, artifact)
        if target.lower() == model.name.lower():
            named = f"={push.repository}" if target == push.repository else f"={push.repository}: {target}"
            raise ConfigError(
                f"push_to_hub.repository{named} is the base model itself (model.name); name another repository, or the "
                "commit to start from in model.revision"
            )


def _inputs(config: FineTuneConfig | AlignConfig) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield the settings that name something to read on this machine; of a list of paths, each path."""
    for keys, value in local_settings(config).items():
        # a tracker's folder is written to
        if keys[-1] == "folder":
            continue
        if keys[-1] != "path":
            yield keys, value
            continue
        source = _at(config, keys)
        for entry in [source] if isinstance(source, str) else source:
            if not is_remote(entry):
                yield keys, entry
    name = config.model.name
    if ("model", "name") not in local_settings(config) and name and Path(name).expanduser().is_dir():
        # a folder is taken before a hub's model of the same name
        yield ("model", "name"), name


def _at(config: RunConfig, keys: tuple[str | int, ...]) -> str | list[str]:
    value: object = config
    for key in keys:
        value = value[key] if isinstance(key, int) else getattr(value, key)  # type: ignore[index]
    assert isinstance(value, str | list)
    return value


def _lies_in(value: str, place: Path) -> bool:
    """Return whether an input, or a file of it, is in the folders of a run: finished, unfinished or replaced."""
    own = [_real(place), *(_real(place.parent) / pattern for pattern in _own_patterns(place.name))]
    return any(
        _matches(folder, pattern) for file in _found(value) for folder in (file, *file.parents) for pattern in own
    )


def _own_patterns(name: str) -> tuple[str, ...]:
    return (name, f"{name}.unfinished", f"{name}.unfinished-*", f".{name}.replaced")


def _matches(path: Path, pattern: Path) -> bool:
    # names of runs have no wildcards
    return path.parent == pattern.parent and fnmatch(path.name, pattern.name)


def _found(value: str) -> Iterator[Path]:
    """Yield the real path of an input, and those of the files that it leads to."""
    path = _local(value)
    if not path.exists() and is_glob(value):
        import glob

        for match in glob.glob(str(path), recursive=True):  # noqa: PTH207 as in places.py
            yield _real(Path(match))
        return
    yield _real(path)
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                if (link := Path(folder, name)).is_symlink():
                    yield _real(link)


def _would_find(value: str, place: Path) -> bool:
    """Return whether a folder or glob of rows would find files in the output folder, now or once they are written."""
    path, target = _local(value), _real(place)
    if path.is_dir():
        return _is_below(target, _real(path))
    if path.exists() or not is_glob(value):
        return False
    root = _real(Path(glob_root(str(path)) or "."))
    if not _is_below(target, root):
        return False
    pattern = root / str(path)[len(glob_root(str(path))) :].lstrip("/")
    if "**" in pattern.parts or "**" in pattern.name:
        return True
    return any(PurePath(target / name).match(str(pattern)) for name in _WRITTEN if name.endswith(FILE_ENDINGS))


def _is_below(path: Path, folder: Path) -> bool:
    return path == folder or folder in path.parents


def _local(value: str) -> Path:
    return Path(value.removeprefix("file://")).expanduser()


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path.expanduser()))

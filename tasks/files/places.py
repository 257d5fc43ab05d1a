"""Where a source's rows lie: the files behind a path, glob, directory or address, and their bytes.

The plan hashes these files and a later step reads them. Both must mean the same files, and name the same faults in the
same words, so that both stand on this module. Whatever a file system, a network or a compression raises leaves it as
a `DataError` of one line.
"""

from __future__ import annotations

import glob
import os
import re
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from configs.errors import DataError
from tasks.files.streams import (
    COMPRESSIONS,
    base_name,
    compression,
    explained,
    file_system,
    is_remote,
    shown,
    without_query,
)

FILE_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
_MAGIC = re.compile(r"[*?\[]")
_IN_THE_STORE = "put it into the store and name its address (s3://...), or name a hub data set"


@dataclass(frozen=True)
class DataFile:
    """One file of a source. `name` is what row ids call it: its base name, or its path below the directory or glob."""

    path: str
    name: str


def find_files(path: str | list[str]) -> list[DataFile]:
    """Return the files of a path, glob, directory (recursive) or address, or of a list of these, each file once.

    Files are sorted within a glob or directory, where hidden files and those of other endings are passed over.

    Raises:
        DataError: a path that does not exist or cannot be read, an ending that no reader knows, or a directory or
            glob without a file of a known ending.
    """
    found: dict[str, DataFile] = {}
    for entry in [path] if isinstance(path, str) else path:
        for file in _remote_files(entry) if is_remote(entry) else _local_files(entry):
            found.setdefault(file.path if is_remote(file.path) else str(Path(file.path).absolute()), file)
    return _with_distinct_names(list(found.values()))


def file_size(path: str) -> int | None:
    """Return how many bytes are stored, or None where a web server does not say.

    Raises:
        DataError: the file is not there or cannot be asked for.
    """
    try:
        if not is_remote(path):
            return Path(path).stat().st_size
        system, place = file_system(path)
        size = system.info(place).get("size")
        return None if size is None else int(size)
    except Exception as error:  # see `file_system`
        raise explained(path, error) from None


def file_kind(path: str) -> str:
    """Return the ending that says how a file is read, such as `.jsonl`, in lower case and without .gz or .zst.

    Raises:
        DataError: none of `FILE_ENDINGS`.
    """
    name = PurePosixPath(base_name(path).lower())
    kind = (name.with_suffix("") if name.suffix in COMPRESSIONS else name).suffix
    if kind not in FILE_ENDINGS:
        raise DataError(f"{shown(path)} ends in none of {_known_endings()}; rename or convert it")
    return kind


def is_pod() -> bool:
    """Return whether Flyte runs this process in a pod, by a variable that it sets in each.

    Source: github.com/flyteorg/flyte, flyteplugins/go/tasks/pluginmachinery/flytek8s/k8s_resource_adds.go.
    """
    return "FLYTE_INTERNAL_EXECUTION_ID" in os.environ


def not_here(instead: str) -> str:
    """Return what is said after the name of a local file that is missing: another reason in a pod than on a laptop."""
    if is_pod():
        return f"does not exist here: a pod does not see a laptop's files; {instead}"
    return f"does not exist (looked in {Path.cwd()}); correct the path"


def is_of_lines(path: str) -> bool:
    """Return whether rows are lines that are stored as they are, so that a part of the file can be read alone."""
    return file_kind(path) in (".jsonl", ".txt") and not compression(path)


def is_glob(path: str) -> bool:
    """Return whether `path` has a wildcard, where no file is called so."""
    return _MAGIC.search(path) is not None


def fixed_part(pattern: str) -> str:
    """Return the directory in which a glob's first wildcard stands."""
    return _MAGIC.split(pattern, maxsplit=1)[0].rpartition("/")[0]


def _local_files(entry: str) -> list[DataFile]:
    try:
        place = Path(entry.removeprefix("file://")).expanduser()
        if place.is_dir():
            paths = [Path(folder, name) for folder, _, names in os.walk(place, onerror=_raise) for name in names]
            return _usable(entry, [(str(path), str(path.relative_to(place))) for path in paths])
        if place.exists():
            file_kind(str(place))
            return [DataFile(str(place), base_name(str(place)))]
        if is_glob(entry):
            # not Path.glob, which refuses `**.jsonl`
            matches = glob.glob(str(place), recursive=True)  # noqa: PTH207
            if not matches and is_pod():
                raise DataError(f"{entry} {not_here(_IN_THE_STORE)}")
            root = fixed_part(str(place))
            return _usable(entry, [(path, _below(root, path)) for path in matches if not Path(path).is_dir()])
    except (OSError, RuntimeError) as error:
        # RuntimeError: `~name` of a user who is not there
        raise explained(entry, error) from None
    raise DataError(f"{entry} {not_here(_IN_THE_STORE)}")


def _remote_files(entry: str) -> list[DataFile]:
    if entry.startswith(("http://", "https://")):
        if "*" in entry:
            raise DataError(f"{shown(entry)}: a web server does not list its files; name each of them")
        file_kind(entry)
        return [DataFile(entry, base_name(entry))]
    try:
        system, place = file_system(entry)
        kind = _kind_of_place(system, place)
        if kind == "directory":
            paths, root = system.find(place), place
        elif kind is None and is_glob(place):
            try:
                matches = system.glob(place, detail=True)
            except ValueError:
                raise DataError(f"{shown(entry)}: `**` stands alone between slashes, as in **/*.jsonl") from None
            paths, root = [path for path, info in matches.items() if info["type"] == "file"], fixed_part(place)
        elif kind is None:
            raise DataError(f"{shown(entry)} does not exist; correct the address")
        else:
            file_kind(entry)
            return [DataFile(entry, base_name(entry))]
        # not fsspec's own unstrip_protocol, which forgets the server of ftp:// and the like
        address = entry.rstrip("/").removesuffix(place)
        return _usable(entry, [(address + path, _below(root, path)) for path in paths])
    except Exception as error:  # each protocol's library has errors of its own, and the user chooses the protocol
        raise explained(entry, error) from None


def _kind_of_place(system: Any, place: str) -> str | None:
    try:
        return system.info(place)["type"]
    except FileNotFoundError:
        return None


def _usable(entry: str, found: list[tuple[str, str]]) -> list[DataFile]:
    """Return the files that a reader knows, sorted, from (path, name) of each file found."""
    files = []
    for path, name in sorted(found):
        parts = PurePosixPath(name).parts
        endings = [end + compression for end in FILE_ENDINGS for compression in ("", *COMPRESSIONS)]
        if name.lower().endswith(tuple(endings)) and not any(part.startswith(".") for part in parts):
            # a name that is not UTF-8 cannot be written into reports
            files.append(DataFile(path, name.encode("utf-8", "replace").decode()))
    if not files:
        raise DataError(f"{shown(entry)} has no file that ends in {_known_endings()}; correct the path or add files")
    return files


def _with_distinct_names(files: list[DataFile]) -> list[DataFile]:
    """Return the files, those of one name called by what their paths do not share: a/rows.jsonl and b/rows.jsonl."""
    folders: dict[str, list[str]] = {}
    for file in files:
        folders.setdefault(file.name, []).append(without_query(file.path).rpartition("/")[0] + "/")
    shared = {name: os.path.commonprefix(same).rpartition("/")[0] + "/" for name, same in folders.items()}  # noqa: RUF071
    return [
        file
        if len(folders[file.name]) == 1
        else DataFile(file.path, without_query(file.path).removeprefix(shared[file.name]))
        for file in files
    ]


def _below(root: str, path: str) -> str:
    return path.removeprefix(root).lstrip("/")


def _known_endings() -> str:
    return f"{', '.join(FILE_ENDINGS)} (or these and {' or '.join(COMPRESSIONS)})"


def _raise(error: OSError) -> None:
    raise error

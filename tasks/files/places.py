"""Which files a path, glob, directory or address stands for.

The plan hashes these files and a later step reads them. Both use this module, so that both find the same files and
report the same fault in the same words. Any error of a file system or a network leaves as a `DataError` of one line.
"""

from __future__ import annotations

import glob
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from itertools import count
from pathlib import Path, PurePosixPath
from typing import Any

from configs.addresses import shown_address
from configs.errors import DataError
from configs.printable import one_line
from tasks.files.streams import (
    COMPRESSIONS,
    base_name,
    compression,
    file_system,
    is_remote,
    user_error,
    waiting_for_store,
)
from tasks.files.waiting import waiting_for

FILE_ENDINGS = (".jsonl", ".ndjson", ".jsonlines", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
_SAME_KIND = {".ndjson": ".jsonl", ".jsonlines": ".jsonl"}
# what `datasets` writes beside the rows: save_to_disk to its folders, and older versions to a repository
_SAVED_FOLDER_NAMES = ("dataset_info.json", "state.json", "dataset_dict.json")
_INFO_NAME = "dataset_infos.json"
_WILDCARD = re.compile(r"[*?\[]")
_UPLOAD_FIX = "put it into the store and name its address (s3://...), or name a hub data set"


@dataclass(frozen=True)
class DataFile:
    """One file of a source. `name` stands in row ids: its base name, or its path below the directory or glob."""

    path: str
    name: str


def find_files(path: str | list[str]) -> list[DataFile]:
    """Return the files of a path, glob, directory (recursive) or address, or of a list of these, each file once.

    Within a glob or directory, files are sorted; hidden files and files with an unknown ending are skipped.

    Raises:
        DataError: a path does not exist, cannot be read or has an unknown ending, or a directory or glob holds no file
            with a known ending.
    """
    found: dict[str, DataFile] = {}
    for entry in [path] if isinstance(path, str) else path:
        for file in _remote_files(entry) if is_remote(entry) else _local_files(entry):
            found.setdefault(file.path if is_remote(file.path) else str(Path(file.path).absolute()), file)
    return _with_distinct_names(list(found.values()))


def file_size(path: str) -> int | None:
    """Return the size of the stored file in bytes, or None if a web server does not report it.

    Raises:
        DataError: the file does not exist or its size cannot be read.
    """
    try:
        if not is_remote(path):
            found = Path(path).stat()
            if not stat.S_ISREG(found.st_mode):
                raise DataError(f"{shown_address(path)} is not a regular file; copy its content into one")
            return found.st_size
        is_web = path.startswith(("http://", "https://"))
        with waiting_for(shown_address(path)) if is_web else waiting_for_store(path):
            system, store_path = file_system(path)
            size = system.info(store_path).get("size")
        return None if size is None else int(size)
    except Exception as error:  # see `file_system`
        raise user_error(path, error) from None


def file_kind(path: str) -> str:
    """Return the ending that decides how a file is read, such as `.jsonl`: in lower case, without .gz or .zst.

    Other endings of JSON Lines, such as `.ndjson`, are given as `.jsonl`.

    Raises:
        DataError: the name ends in none of `FILE_ENDINGS`.
    """
    name = PurePosixPath(base_name(path).lower())
    kind = (name.with_suffix("") if name.suffix in COMPRESSIONS else name).suffix
    if kind not in FILE_ENDINGS:
        raise DataError(f"{shown_address(path)} ends in none of {_known_endings()}; rename or convert it")
    return _SAME_KIND.get(kind, kind)


def is_pod() -> bool:
    """Return whether this process runs in a pod of Flyte, which sets this variable in every pod.

    Source: github.com/flyteorg/flyte, flyteplugins/go/tasks/pluginmachinery/flytek8s/k8s_resource_adds.go.
    """
    return "FLYTE_INTERNAL_EXECUTION_ID" in os.environ


def missing_file_reason(instead: str) -> str:
    """Return the text that follows the name of a missing local file, with the reason that fits a pod or a laptop."""
    if is_pod():
        return f"does not exist here: a pod does not see a laptop's files; {instead}"
    return f"does not exist (looked in {one_line(Path.cwd())}); correct the path"


def is_splittable(path: str) -> bool:
    """Return whether each row is one uncompressed line, so that a byte range of the file can be read alone."""
    return file_kind(path) in (".jsonl", ".txt") and not compression(path)


def is_glob(path: str) -> bool:
    """Return whether `path` has a wildcard; a file may still have that very name."""
    return _WILDCARD.search(path) is not None


def glob_root(pattern: str) -> str:
    """Return the part of a glob before its first wildcard, up to the last slash."""
    return _WILDCARD.split(pattern, maxsplit=1)[0].rpartition("/")[0]


def _local_files(entry: str) -> list[DataFile]:
    try:
        local_path = Path(entry.removeprefix("file://")).expanduser()
        if local_path.is_dir():
            paths = [Path(folder, name) for folder, _, names in os.walk(local_path, onerror=_reraise) for name in names]
            return _readable_files(entry, [(str(path), str(path.relative_to(local_path))) for path in paths])
        if local_path.exists():
            file_kind(str(local_path))
            return [DataFile(str(local_path), base_name(str(local_path)))]
        if is_glob(entry):
            # not Path.glob, which refuses `**.jsonl`
            matches = glob.glob(str(local_path), recursive=True)  # noqa: PTH207
            if not matches and is_pod():
                raise DataError(f"{one_line(entry)} {missing_file_reason(_UPLOAD_FIX)}")
            root = glob_root(str(local_path))
            files = [path for path in matches if not Path(path).is_dir()]
            return _readable_files(entry, [(path, _name_below(root, path)) for path in files])
    except (OSError, RuntimeError) as error:
        # RuntimeError: `~name` of an unknown user
        raise user_error(entry, error) from None
    raise DataError(f"{one_line(entry)} {missing_file_reason(_UPLOAD_FIX)}")


def _remote_files(entry: str) -> list[DataFile]:
    if entry.startswith(("http://", "https://")):
        if "*" in entry:
            raise DataError(f"{shown_address(entry)}: a web server does not list its files; name each of them")
        file_kind(entry)
        return [DataFile(entry, base_name(entry))]
    try:
        with waiting_for_store(entry):
            system, store_path = file_system(entry)
            kind = _kind_in_store(system, store_path)
        if kind == "directory":
            with waiting_for_store(entry):
                paths, root = system.find(store_path), store_path
        elif kind is None and is_glob(store_path):
            try:
                with waiting_for_store(entry):
                    matches = system.glob(store_path, detail=True)
            except ValueError:
                raise DataError(
                    f"{shown_address(entry)}: `**` must stand alone between slashes, as in **/*.jsonl"
                ) from None
            paths = [path for path, info in matches.items() if info["type"] == "file"]
            root = glob_root(store_path)
        elif kind is None:
            raise DataError(f"{shown_address(entry)} does not exist; correct the address")
        else:
            file_kind(entry)
            return [DataFile(entry, base_name(entry))]
        # fsspec's own unstrip_protocol drops the server from ftp:// and similar addresses
        address = entry.rstrip("/").removesuffix(store_path)
        return _readable_files(entry, [(address + path, _name_below(root, path)) for path in paths])
    except Exception as error:  # see `file_system`
        raise user_error(entry, error) from None


def _kind_in_store(system: Any, store_path: str) -> str | None:
    try:
        return system.info(store_path)["type"]
    except FileNotFoundError:
        return None


def _readable_files(entry: str, found: list[tuple[str, str]]) -> list[DataFile]:
    """Return the visible files with a known ending, sorted, from the (path, name) of every file found."""
    files = []
    for path, name in sorted(found):
        parts = PurePosixPath(name).parts
        endings = [kind + compressed for kind in FILE_ENDINGS for compressed in ("", *COMPRESSIONS)]
        if name.lower().endswith(tuple(endings)) and not any(part.startswith(".") for part in parts):
            # it stands in row ids, messages and reports, which cannot hold a name that is not UTF-8 either
            files.append(DataFile(path, one_line(name.encode("utf-8", "replace").decode())))
    files = _without_descriptions(files)
    if not files:
        raise DataError(
            f"{shown_address(entry)} has no file that ends in {_known_endings()}; correct the path or add files"
        )
    return files


def _without_descriptions(files: list[DataFile]) -> list[DataFile]:
    """Return the files without those that `datasets` writes to describe the others, and without its caches.

    A folder of save_to_disk is known by the Arrow files in it, or below it.
    """
    arrow_folders = [PurePosixPath(file.name).parent for file in files if file.name.endswith(".arrow")]
    saved = {folder for arrow in arrow_folders for folder in (arrow, *arrow.parents)}
    described = {PurePosixPath(file.name).parent for file in files if base_name(file.name) in _SAVED_FOLDER_NAMES}

    def holds_rows(file: DataFile) -> bool:
        path = PurePosixPath(file.name)
        if path.name in _SAVED_FOLDER_NAMES:
            return path.parent not in saved
        if path.name == _INFO_NAME:
            return len(files) == 1
        # a cache of `map` holds other rows than the folder was saved with
        return not (path.parent in described and path.name.startswith("cache-") and path.name.endswith(".arrow"))

    return [file for file in files if holds_rows(file)]


def _with_distinct_names(files: list[DataFile]) -> list[DataFile]:
    """Return the files; those that share a name are named from where their paths differ, as a/rows.jsonl."""
    folders: dict[str, list[str]] = {}
    for file in files:
        folders.setdefault(file.name, []).append(shown_address(file.path).rpartition("/")[0] + "/")
    shared = {name: os.path.commonprefix(paths).rpartition("/")[0] + "/" for name, paths in folders.items()}  # noqa: RUF071
    named = [
        file
        if len(folders[file.name]) == 1
        else DataFile(file.path, shown_address(file.path).removeprefix(shared[file.name]))
        for file in files
    ]
    # addresses that differ only in what is not shown, such as the user
    counts = Counter(file.name for file in named)
    numbers = {name: count(1) for name in counts}
    return [
        file if counts[file.name] == 1 else DataFile(file.path, f"{file.name} ({next(numbers[file.name])})")
        for file in named
    ]


def _name_below(root: str, path: str) -> str:
    return path.removeprefix(root).lstrip("/")


def _known_endings() -> str:
    return f"{', '.join(FILE_ENDINGS)} (or these and {' or '.join(COMPRESSIONS)})"


def _reraise(error: OSError) -> None:
    raise error

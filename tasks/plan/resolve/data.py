"""Resolves each data source to its current revision, and divides its files into shards identified by their content.

Later steps are cached by content, not by name, so a shard whose bytes are unchanged is not read again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

from configs.addresses import shown_address
from configs.embedded.names import parse_embedded_source
from configs.errors import DataError
from configs.schema import DataConfig, SourceConfig
from configs.wire import FileRange, Shard
from tasks.files.places import DataFile, file_size, find_files, is_splittable
from tasks.files.splits import Role, file_roles, held_out_warning, scored_training_warning, shown_files
from tasks.files.streams import POINTER_BYTES, is_pointer, pointer_error, range_digest


class ResolvedData(NamedTuple):
    """The revisions of `data.contamination`, and the shards of `data.sources`, then of `data.evaluation`."""

    contamination: list[str]
    shards: list[Shard]


def resolve_data(config: DataConfig, token: str | None) -> ResolvedData:
    """Return the current revision of every source: a hub commit, or a SHA-256 of the stored bytes.

    `config.shards` is the wanted total number of shards. Uncompressed JSONL and text files are divided, unless they are
    read from the web. Other files stay whole, and a hub or embedded data set is one shard. No shard has rows of two
    sources, or files of two splits, so there are at least as many shards as sources.

    Raises:
        DataError: a file is missing, empty, unreadable, or has an ending that no reader knows; a directory or glob has
            no file to read.
        HubError: the hub does not have a data set, or refuses access to it.
    """
    contamination = [
        _revision(f"data.contamination[{number}]", source, token) for number, source in enumerate(config.contamination)
    ]
    places = [("sources", n, s) for n, s in enumerate(config.sources)]
    places += [("evaluation", n, s) for n, s in enumerate(config.evaluation)]
    files = [_files(f"data.{section}[{number}]", source) for section, number, source in places]
    total = sum(size for source_files in files for _, size in source_files)
    target = max(1, -(-total // config.shards))
    shards = []
    for (section, number, source), source_files in zip(places, files, strict=True):
        if source_files:
            lines_before: dict[str, int] = {}
            for role, files_of_role in _by_role(section, source, source_files):
                for group in _divide(files_of_role, target):
                    ranges = _ranges(group, lines_before)
                    shards.append(Shard(section=section, number=number, revision="", ranges=ranges, role=role))
        else:
            revision = _revision(f"data.{section}[{number}]", source, token)
            shards.append(Shard(section=section, number=number, revision=revision, role=source.role))
    return ResolvedData(contamination, shards)


def _files(where: str, source: SourceConfig) -> list[tuple[DataFile, int]]:
    """Return (file, size in bytes) for the files of a source; none for a hub or embedded data set."""
    if not source.reads_files:
        return []
    assert source.path is not None
    try:
        sizes = [(file, file_size(file.path)) for file in find_files(source.path)]
        for file, size in sizes:
            if size == 0:
                raise DataError(f"{shown_address(file.path)} is empty; it must hold at least one row")
            if size is not None and size < POINTER_BYTES and is_pointer(file.path):
                raise pointer_error(file.path)
    except DataError as error:
        # keep the class: callers treat an unreachable store differently from a missing file
        raise type(error)(f"{where}.path={error}") from None
    # a web server may not state a file's size
    return [(file, size or 0) for file, size in sizes]


def _by_role(
    section: str, source: SourceConfig, files: list[tuple[DataFile, int]]
) -> list[tuple[Role, list[tuple[DataFile, int]]]]:
    """Return (role, files) of a source: files for training before those that their names hold out."""
    if section != "sources" or source.role != "auto":
        return [(source.role, files)]
    roles = file_roles([file for file, _ in files])
    found: list[Role] = ["auto", "train", "test"]
    by_role = [(role, [file for file, r in zip(files, roles, strict=True) if r == role]) for role in found]
    return [(role, of_role) for role, of_role in by_role if of_role]


def shown_splits(shards: Sequence[Shard]) -> str:
    """Return which files are held out because their names say so, for a message; empty if there are none."""
    roles: dict[int, dict[str, list[str]]] = {}
    for shard in shards:
        if shard.section == "sources" and shard.ranges:
            names = roles.setdefault(shard.number, {}).setdefault(shard.role, [])
            names += [part.name for part in shard.ranges if part.name not in names[-1:]]
    shown = [
        f"data.sources[{number}] trains on {shown_files(names['train'])}, and holds out {shown_files(names['test'])}"
        for number, names in roles.items()
        if len(names) > 1
    ]
    return "; ".join(shown) + ", as the files are named" if shown else ""


def split_warning(shards: Sequence[Shard]) -> str:
    """Return a warning about files that are named as held out but may be trained on, and about evaluation sets with
    files named as training data; or an empty string."""
    names: dict[tuple[str, int], list[str]] = {}
    for shard in shards:
        if shard.section == "evaluation" or shard.role == "auto":
            of_source = names.setdefault((shard.section, shard.number), [])
            of_source += [part.name for part in shard.ranges if part.start == 0]
    warnings = [
        (held_out_warning if section == "sources" else scored_training_warning)(f"data.{section}[{number}]", files)
        for (section, number), files in names.items()
    ]
    return "; ".join(warning for warning in warnings if warning)


def _divide(files: list[tuple[DataFile, int]], target: int) -> list[list[tuple[DataFile, int, int | None]]]:
    """Return groups of (file, start, end) of about `target` bytes each, in the order of the files."""
    groups: list[list[tuple[DataFile, int, int | None]]] = [[]]
    filled = 0
    for file, size in files:
        start = 0
        # a web server may not support ranges
        is_divisible = is_splittable(file.path) and not file.path.startswith(("http://", "https://"))
        while is_divisible and size - start > target - filled > 0:
            end = start + target - filled
            groups[-1].append((file, start, end))
            groups.append([])
            start, filled = end, 0
        groups[-1].append((file, start, None))
        filled += size - start
        if filled >= target:
            groups.append([])
            filled = 0
    return [group for group in groups if group]


def _ranges(group: list[tuple[DataFile, int, int | None]], lines_before: dict[str, int]) -> list[FileRange]:
    """Return the ranges with the hashes of their content, and add their lines to `lines_before`, the lines per file in
    earlier ranges."""
    ranges = []
    for file, start, end in group:
        digest, num_lines = range_digest(file.path, start, end)
        first_row = lines_before.get(file.path, 0) + 1
        lines_before[file.path] = first_row - 1 + num_lines
        ranges.append(
            FileRange(path=file.path, name=file.name, start=start, end=end, first_row=first_row, sha256=digest)
        )
    return ranges


def _revision(where: str, source: SourceConfig, token: str | None) -> str:
    if source.hub is not None:
        from huggingface_hub import HfApi

        from tasks.plan.resolve.hub import answered, explain_hub_errors

        instead = f"name a file or folder as `path` ({source.hub} is neither on this machine)"
        with explain_hub_errors(f"{where}.hub={source.hub}", source.revision, instead):
            sha = HfApi(token=token or False).dataset_info(source.hub, revision=source.revision).sha or "main"
            return answered(sha, str)
    if isinstance(source.path, str) and source.path.startswith("embedded:"):
        name, num_rows = parse_embedded_source(source.path)
        return f"{name.replace(':', '-')}-{num_rows}"
    digest = hashlib.sha256()
    for file, _ in _files(where, source):
        digest.update(f"{file.name}\0{range_digest(file.path, 0, None)[0]}\n".encode())
    return digest.hexdigest()

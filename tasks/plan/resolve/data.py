"""Resolve each data source to what it holds right now, and divide it into shards, each known by its content.

Later steps are cached on content, not on names; a shard whose bytes are unchanged is not read again.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

from configs.embedded.names import parse_embedded_source
from configs.errors import DataError
from configs.schema import DataConfig, SourceConfig
from configs.wire import FileRange, Shard
from tasks.files.places import DataFile, file_size, find_files, is_splittable
from tasks.files.streams import range_digest, redacted


class ResolvedData(NamedTuple):
    """The revisions of `data.contamination`, and the shards of `data.sources` and then of `data.evaluation`."""

    contamination: list[str]
    shards: list[Shard]


def resolve_data(config: DataConfig, token: str | None) -> ResolvedData:
    """Return what every source holds right now: a hub commit, or a SHA-256 of the stored bytes.

    `config.shards` is how many shards there should be in all. JSONL and text files that are stored as they are, and are
    not read from the web, are divided; others are whole, and a hub or embedded data set is one shard. No shard has rows
    of two sources, so that there are at least as many shards as sources.

    Raises:
        DataError: a file that is missing, empty, unreadable, or of an ending that no reader knows; a directory or
            glob that has no file to read.
        HubError: a data set that the hub does not have or refuses.
    """
    contamination = [
        _revision(f"data.contamination[{number}]", source, token) for number, source in enumerate(config.contamination)
    ]
    places = [("sources", n, s) for n, s in enumerate(config.sources)]
    places += [("evaluation", n, s) for n, s in enumerate(config.evaluation)]
    files = [_files(f"data.{section}[{number}]", source) for section, number, source in places]
    total = sum(size for each in files for _, size in each)
    target = max(1, -(-total // config.shards))
    shards = []
    for (section, number, source), each in zip(places, files, strict=True):
        if each:
            lines: dict[str, int] = {}
            for group in _divide(each, target):
                shards.append(Shard(section=section, number=number, revision="", ranges=_ranges(group, lines)))
        else:
            revision = _revision(f"data.{section}[{number}]", source, token)
            shards.append(Shard(section=section, number=number, revision=revision))
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
                raise DataError(f"{redacted(file.path)} is empty; it must hold at least one row")
    except DataError as error:
        # of its own class: a store that cannot be reached is another matter than a file that is not there
        raise type(error)(f"{where}.path={error}") from None
    # a web server may not say how long a file is
    return [(file, size or 0) for file, size in sizes]


def _divide(files: list[tuple[DataFile, int]], target: int) -> list[list[tuple[DataFile, int, int | None]]]:
    """Return groups of (file, start, end) of about `target` bytes each, in the order of the files."""
    groups: list[list[tuple[DataFile, int, int | None]]] = [[]]
    filled = 0
    for file, size in files:
        start = 0
        # a web server may know no ranges
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


def _ranges(group: list[tuple[DataFile, int, int | None]], lines: dict[str, int]) -> list[FileRange]:
    """Return the ranges with their content; `lines` holds how many lines of each file came before, and is updated."""
    ranges = []
    for file, start, end in group:
        digest, num_lines = range_digest(file.path, start, end)
        first_row = lines.get(file.path, 0) + 1
        lines[file.path] = first_row - 1 + num_lines
        ranges.append(
            FileRange(path=file.path, name=file.name, start=start, end=end, first_row=first_row, sha256=digest)
        )
    return ranges


def _revision(where: str, source: SourceConfig, token: str | None) -> str:
    if source.hub is not None:
        from huggingface_hub import HfApi

        from tasks.plan.resolve.hub import explained

        with explained(f"{where}.hub={source.hub}", source.revision, "name a local file as `path`"):
            return HfApi(token=token or False).dataset_info(source.hub, revision=source.revision).sha or "main"
    if isinstance(source.path, str) and source.path.startswith("embedded:"):
        name, num_rows = parse_embedded_source(source.path)
        return f"{name.replace(':', '-')}-{num_rows}"
    digest = hashlib.sha256()
    for file, _ in _files(where, source):
        digest.update(f"{file.name}\0{range_digest(file.path, 0, None)[0]}\n".encode())
    return digest.hexdigest()

"""Read the rows of a source, or of a shard of it, each with the place it came from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import islice
from typing import Any, NamedTuple

from configs.embedded.english_to_sql import make_rows
from configs.embedded.names import EMBEDDED_DATA, EMBEDDED_PREFERENCES, parse_embedded_source
from configs.embedded.preferences import make_preferences
from configs.errors import DataError
from configs.schema import SourceConfig
from configs.wire import FileRange, Shard
from tasks.files.places import DataFile, find_files
from tasks.files.streams import range_digest, shown
from tasks.rows.readers import BadRow, Row, read_rows

# the seed of embedded rows is part of the data set, as a file's content would be
_EMBEDDED_SEEDS = {EMBEDDED_DATA: 0, EMBEDDED_PREFERENCES: 1}
_ROWS_LOOKED_AT = 100


class RawRow(NamedTuple):
    """One record as read. `row` counts from 1: the line of a JSONL or text file, else the record."""

    file: str
    row: int
    record: Row


def read_source(source: SourceConfig, revision: str, token: str | None) -> Iterator[RawRow]:
    """Yield all rows of `source` in their order, also those that cannot be used (`BadRow`).

    Raises:
        DataError: files that are not there, unreadable, cut short, not UTF-8, not of the kind their ending says, or
            without a row.
        HubError: a hub data set that cannot be loaded.
    """
    if not source.reads_files:
        yield from _read_set(source, revision, token)
        return
    assert source.path is not None
    files = find_files(source.path)
    is_empty = True
    for file in files:
        for number, record in read_rows(file):
            is_empty = False
            yield RawRow(file.name, number, record)
    if is_empty:
        raise DataError(f"{_place(source.path, files)} has no rows; it must hold at least 10")


def read_shard(source: SourceConfig, shard: Shard, token: str | None) -> Iterator[RawRow]:
    """Yield the rows of `shard`, a part of `source`, in their order; errors as `read_source`.

    Raises:
        DataError: also a file that has changed since the run was planned.
    """
    if not source.reads_files:
        yield from _read_set(source, shard.revision, token)
        return
    for each in shard.ranges:
        _check_unchanged(each)
        for number, record in read_rows(DataFile(each.path, each.name), each.start, each.end):
            yield RawRow(each.name, each.first_row - 1 + number, record)


def _check_unchanged(each: FileRange) -> None:
    # results are cached under the content that was planned
    digest, _ = range_digest(each.path, each.start, each.end)
    if digest != each.sha256:
        raise DataError(f"{shown(each.path)} has changed since this run began; run again when it is complete")


def first_records(source: SourceConfig, revision: str, token: str | None) -> list[dict[str, Any]]:
    """Return the usable ones of the first 100 rows: a source's format is that of its beginning, for all its shards."""
    rows = islice(read_source(source, revision, token), _ROWS_LOOKED_AT)
    return [row.record for row in rows if not isinstance(row.record, BadRow)]


def source_label(source: SourceConfig) -> str:
    """Return a file's base name, a glob's or directory's last part, the first of many files, or a data set's name."""
    if source.hub is not None:
        return f"{source.hub}:{source.split}"
    assert source.path is not None
    if not source.reads_files:
        return str(source.path)
    files = find_files(source.path)
    if len(files) == 1:
        return files[0].name
    if isinstance(source.path, str):
        return source.path.rstrip("/").rpartition("/")[2] or source.path
    return f"{files[0].name} and {len(files) - 1} more"


def _place(path: str | list[str], files: list[DataFile]) -> str:
    return shown(path) if isinstance(path, str) else f"{shown(files[0].path)} with all others of the list"


def _read_set(source: SourceConfig, revision: str, token: str | None) -> Iterator[RawRow]:
    label = source_label(source)
    records = hub_records(source, revision, token) if source.hub is not None else _embedded_records(label)
    for number, record in enumerate(records, 1):
        yield RawRow(label, number, record)


def _embedded_records(name: str) -> Iterator[dict[str, Any]]:
    kind, num_rows = parse_embedded_source(name)
    make = make_preferences if kind == EMBEDDED_PREFERENCES else make_rows
    return (dict(row) for row in make(num_rows, _EMBEDDED_SEEDS[kind]))


def hub_records(
    source: SourceConfig, revision: str, token: str | None, streaming: bool = False
) -> Iterator[dict[str, Any]]:
    """Return the rows of a hub data set; `streaming` fetches what is read of it, and not all of it first.

    Raises:
        DataError: no such configuration or split.
        HubError: it cannot be loaded.
    """
    import datasets

    from configs.errors import HubError

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        dataset = datasets.load_dataset(
            source.hub, source.name, split=source.split, revision=revision, token=token or False, streaming=streaming
        )
    except ValueError as error:
        # unknown configuration or split; the library lists the known ones
        raise DataError(f"data set {source.hub}: {str(error).splitlines()[0]}; correct name or split") from None
    except (datasets.exceptions.DatasetsError, OSError) as error:
        raise HubError(
            f"data set {source.hub} cannot be loaded ({type(error).__name__}); check it on the hub"
        ) from None
    return (dict(record) for record in dataset)

"""Read the rows of a source, or of one of its shards; each row names its file and number."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from configs.addresses import first_line, last_part, shown_address
from configs.embedded.english_to_sql import make_rows
from configs.embedded.names import EMBEDDED_DATA, EMBEDDED_PREFERENCES, parse_embedded_source
from configs.embedded.preferences import make_preferences
from configs.errors import DataError
from configs.printable import one_line
from configs.schema import SourceConfig
from configs.wire import FileRange, Shard
from tasks.files.places import DataFile, find_files
from tasks.files.streams import range_digest
from tasks.rows.readers import BadRow, Row, read_rows
from tasks.rows.values import without_padding

# fixed seeds: a seed is part of an embedded data set, as content is part of a file
_EMBEDDED_SEEDS = {EMBEDDED_DATA: 0, EMBEDDED_PREFERENCES: 1}
_NUM_FIRST_ROWS = 100


class RawRow(NamedTuple):
    """One record as read. `row` counts from 1: the line of a JSONL or text file, else the record."""

    file: str
    row: int
    record: Row


def read_source(source: SourceConfig, revision: str, token: str | None) -> Iterator[RawRow]:
    """Yield all rows of `source` in order, including rows that cannot be used (`BadRow`).

    Raises:
        DataError: a file does not exist, cannot be read, is cut short, is not UTF-8, or is not of the kind its ending
            says; or no file has a row.
        HubError: a hub data set cannot be loaded.
    """
    if not source.reads_files:
        yield from _read_data_set(source, revision, token)
        return
    assert source.path is not None
    files = find_files(source.path)
    is_empty = True
    for file in files:
        for number, record in read_rows(file):
            is_empty = False
            yield RawRow(file.name, number, record)
    if is_empty:
        raise DataError(f"{_shown_source(source.path, files)} has no rows; it must hold at least 10")


def read_shard(source: SourceConfig, shard: Shard, token: str | None) -> Iterator[RawRow]:
    """Yield the rows of `shard`, a part of `source`, in order.

    Raises:
        DataError: a file has changed since the run was planned. Also all errors of `read_source`.
    """
    if not source.reads_files:
        yield from _read_data_set(source, shard.revision, token)
        return
    for part in shard.ranges:
        _check_unchanged(part)
        for number, record in read_rows(DataFile(part.path, part.name), part.start, part.end):
            yield RawRow(part.name, part.first_row - 1 + number, record)


def _check_unchanged(part: FileRange) -> None:
    # results are cached under the hash of the planned content
    digest, _ = range_digest(part.path, part.start, part.end)
    if digest != part.sha256:
        raise DataError(f"{shown_address(part.path)} has changed since this run began; run again when it is complete")


def first_records(source: SourceConfig, revision: str, token: str | None) -> list[dict[str, Any]]:
    """Return the usable rows among a source's first 100, which decide the format of all its shards."""
    rows = islice(read_source(source, revision, token), _NUM_FIRST_ROWS)
    return [row.record for row in rows if not isinstance(row.record, BadRow)]


def source_label(source: SourceConfig) -> str:
    """Return the name of a source for messages and reports: its file, directory, glob, list of files, or data set."""
    if source.hub is not None:
        return f"{source.hub}:{source.split}"
    assert source.path is not None
    if not source.reads_files:
        return str(source.path)
    files = find_files(source.path)
    if len(files) == 1:
        return files[0].name
    if isinstance(source.path, str):
        return last_part(source.path)
    return f"{files[0].name} and {len(files) - 1} more"


def _shown_source(path: str | list[str], files: list[DataFile]) -> str:
    return (
        shown_address(path)
        if isinstance(path, str)
        else f"{shown_address(files[0].path)} and the other files of the list"
    )


def _read_data_set(source: SourceConfig, revision: str, token: str | None) -> Iterator[RawRow]:
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
    """Return the rows of a hub data set; `streaming` fetches rows as they are read, not all of them first.

    Nulls in structs are left out, as in a Parquet file.

    Raises:
        DataError: the data set has no such configuration or split.
        HubError: the data set cannot be loaded.
        ArtifactError: the copy that the library keeps on this machine is damaged.
    """
    import datasets
    import pyarrow as pa

    from configs.errors import ArtifactError, HubError
    from tasks.files.hub_client import use_patient_client
    from tasks.files.waiting import NoAnswerError

    use_patient_client()
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        dataset = datasets.load_dataset(
            source.hub, source.name, split=source.split, revision=revision, token=token or False, streaming=streaming
        )
    except (pa.ArrowInvalid, json.JSONDecodeError) as error:
        # of what is on the hub the library raises errors of its own
        folder = Path(datasets.config.HF_DATASETS_CACHE) / str(source.hub).replace("/", "___")
        raise ArtifactError(
            f"data set {source.hub}: its copy on this machine is damaged ({type(error).__name__}); delete it: "
            f"rm -rf {one_line(shlex.quote(str(folder)))}"
        ) from None
    except ValueError as error:
        # unknown configuration or split; the library lists the known ones
        raise DataError(f"data set {source.hub}: {first_line(error)}; correct name or split") from None
    except NoAnswerError as error:
        raise HubError(f"data set {source.hub}: {error}; try again later") from None
    except (datasets.exceptions.DatasetsError, OSError) as error:
        raise HubError(
            f"data set {source.hub} cannot be loaded ({type(error).__name__}); check it on the hub"
        ) from None
    return _records_of(source, dataset)


def _records_of(source: SourceConfig, dataset: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a hub data set.

    Raises:
        DataError: `datasets`, which parses the files, cannot read them; it has no error class of its own for that.
    """
    import datasets

    try:
        for record in dataset:
            yield without_padding(dict(record))
    except MemoryError:
        raise DataError(
            f"data set {source.hub} needs more memory than there is; copy its files, and name them"
        ) from None
    except (
        datasets.exceptions.DatasetsError,
        AttributeError,
        LookupError,
        OSError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise DataError(
            f"data set {source.hub} has a file that cannot be read ({type(error).__name__}); check it on the hub"
        ) from None

"""Read the rows of a source, each with the place it came from; a row that cannot be parsed is kept as a failure."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import Any

from configs.embedded.english_to_sql import make_rows
from configs.embedded.names import parse_embedded_source
from configs.errors import DataError
from configs.places import DataFile, find_files
from configs.schema import SourceConfig
from configs.streams import shown
from configs.wire import FailureCase
from tasks.get_data.readers import BadRow, read_rows

# the seed of the embedded rows is part of the data set, as a file's content would be
_EMBEDDED_SEED = 0


@dataclass(frozen=True)
class RawRow:
    """One record as read. `row` counts from 1: the line of a JSONL or text file, else the record."""

    file: str
    row: int
    record: dict[str, Any]


@dataclass
class RawSource:
    """All rows of one source, and those that could not even be parsed. `label` names it in reports."""

    label: str
    rows: list[RawRow] = field(default_factory=list)
    failures: list[FailureCase] = field(default_factory=list)


def read_source(source: SourceConfig, revision: str, token: str | None) -> RawSource:
    """Return the rows of `source` in their order.

    Raises:
        DataError: files that are not there, unreadable, cut short, not UTF-8, not of the kind their ending says, or
            without a row.
        HubError: a hub data set that cannot be loaded.
    """
    if source.hub is not None:
        return _read_hub(source, revision, token)
    assert source.path is not None
    if isinstance(source.path, str) and source.path.startswith("embedded:"):
        rows = make_rows(parse_embedded_source(source.path), _EMBEDDED_SEED)
        return RawSource(source.path, [RawRow(source.path, n, dict(row)) for n, row in enumerate(rows, 1)])
    files = find_files(source.path)
    result = RawSource(_label(source.path, files))
    for file in files:
        for number, row in read_rows(file):
            if isinstance(row, BadRow):
                result.failures.append(
                    FailureCase(file=file.name, row=number, column="(row)", reason=row.reason, value=row.value)
                )
            else:
                result.rows.append(RawRow(file.name, number, row))
    if not result.rows and not result.failures:
        raise DataError(f"{_place(source.path, files)} has no rows; it must hold at least 10")
    return result


def _label(path: str | list[str], files: list[DataFile]) -> str:
    """Return a file's base name, a glob's or directory's last part, or the first of many and how many others."""
    if len(files) == 1:
        return files[0].name
    if isinstance(path, str):
        return path.rstrip("/").rpartition("/")[2] or path
    return f"{files[0].name} and {len(files) - 1} more"


def _place(path: str | list[str], files: list[DataFile]) -> str:
    return shown(path) if isinstance(path, str) else f"{shown(files[0].path)} with all others of the list"


def _read_hub(source: SourceConfig, revision: str, token: str | None) -> RawSource:
    import datasets

    from configs.errors import HubError

    label = f"{source.hub}:{source.split}"
    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    try:
        dataset = datasets.load_dataset(
            source.hub, source.name, split=source.split, revision=revision, token=token or False
        )
    except ValueError as error:
        # unknown configuration or split; the library lists the known ones
        raise DataError(f"data set {source.hub}: {str(error).splitlines()[0]}; correct name or split") from None
    except (datasets.exceptions.DatasetsError, OSError) as error:
        raise HubError(
            f"data set {source.hub} cannot be loaded ({type(error).__name__}); check it on the hub"
        ) from None
    return RawSource(label, [RawRow(label, number, dict(record)) for number, record in enumerate(dataset, 1)])

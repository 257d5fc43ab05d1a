"""Data files for tests: encode rows as any kind of file, and read files as the data stage does."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from configs.errors import DataError
from configs.schema import SourceConfig
from tasks.files.places import DataFile
from tasks.rows.readers import BadRow, Row, read_rows
from tasks.rows.sources import RawRow, read_source

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")


class Failure(NamedTuple):
    file: str
    row: int
    reason: str
    value: str


class ReadRows(NamedTuple):
    rows: list[RawRow]
    failures: list[Failure]


def read(*paths: Path | str) -> ReadRows:
    """Return the usable rows of a source, and its bad rows as failures."""
    rows = list(read_source(source(*paths), "revision", None))
    return ReadRows(
        [row for row in rows if isinstance(row.record, dict)],
        [Failure(row.file, row.row, *row.record) for row in rows if isinstance(row.record, BadRow)],
    )


def source(*paths: Path | str) -> SourceConfig:
    names = [str(path) for path in paths]
    return SourceConfig(path=names if len(names) > 1 else names[0])


def read_error(*paths: Path | str) -> str:
    """Return the error that reading a source raises, which must have one to three lines."""
    with pytest.raises(DataError) as caught:
        read(*paths)
    assert 1 <= len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def encode(kind: str, rows: list[dict[str, str]]) -> bytes:
    if kind == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if kind == ".json":
        return json.dumps(rows, indent=1).encode()
    if kind in (".csv", ".tsv"):
        file = io.StringIO(newline="")
        table = csv.DictWriter(
            file, list(rows[0]), delimiter="," if kind == ".csv" else "\t", quoting=csv.QUOTE_ALL, lineterminator="\n"
        )
        table.writeheader()
        table.writerows(rows)
        return file.getvalue().encode()
    return encode_table(kind, pa.Table.from_pylist(rows))


def encode_table(kind: str, table: pa.Table) -> bytes:
    sink = io.BytesIO()
    if kind == ".parquet":
        pq.write_table(table, sink)
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with new(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


def numbered_rows(path: Path | str) -> list[tuple[int, Row]]:
    return list(read_rows(DataFile(str(path), "rows")))


def rows_and_error(path: Path | str) -> tuple[list[tuple[int, Row]], str | None]:
    """Return ([(number, row)] up to an error, the error or None) of reading a file."""
    rows: list[tuple[int, Row]] = []
    try:
        for numbered_row in read_rows(DataFile(str(path), "rows")):
            rows.append(numbered_row)
    except DataError as error:
        assert 1 <= len(str(error).splitlines()) <= 3
        return rows, str(error)
    return rows, None

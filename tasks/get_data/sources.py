"""Read the rows of a source, each with the place it came from; a row that cannot be parsed is kept as a failure."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from configs.embedded.english_to_sql import make_rows
from configs.embedded.names import parse_embedded_source
from configs.errors import DataError
from configs.schema import SourceConfig
from configs.wire import FailureCase

# the seed of the embedded rows is part of the data set, as a file's content would be
_EMBEDDED_SEED = 0
_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


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
        DataError: a file that is not UTF-8, empty, or not of the kind its ending says.
        HubError: a hub data set that cannot be loaded.
    """
    if source.hub is not None:
        return _read_hub(source, revision, token)
    assert source.path is not None
    if source.path.startswith("embedded:"):
        rows = make_rows(parse_embedded_source(source.path), _EMBEDDED_SEED)
        return RawSource(source.path, [RawRow(source.path, n, dict(row)) for n, row in enumerate(rows, 1)])
    path = Path(source.path).expanduser()
    result = RawSource(path.name)
    readers = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".txt": _read_text}
    try:
        if path.suffix.lower() == ".parquet":
            entries = _read_parquet(path)
        else:
            entries = readers[path.suffix.lower()](path.name, _decode(path))
        for number, record in entries:
            if isinstance(record, dict):
                result.rows.append(RawRow(path.name, number, record))
            else:
                reason, value = record
                result.failures.append(
                    FailureCase(file=path.name, row=number, column="(row)", reason=reason, value=value)
                )
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}; check the file") from None
    if not result.rows and not result.failures:
        raise DataError(f"{path} has no rows; it must hold at least 10")
    return result


# a record, or (reason, content) of a row that cannot be parsed
_Entry = tuple[int, "dict[str, Any] | tuple[str, str]"]


def _decode(path: Path) -> str:
    content = path.read_bytes()
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if content.startswith(mark):
            raise DataError(
                f"{path} is {encoding}, not UTF-8\n"
                f"convert it: iconv -f {encoding} -t UTF-8 {path.name} > utf8-{path.name}"
            )
    if content[:1000].count(0) > len(content[:1000]) // 4:
        # every other byte of western text in UTF-16 is zero
        raise DataError(
            f"{path} seems to be UTF-16, not UTF-8\n"
            f"convert it: iconv -f UTF-16LE -t UTF-8 {path.name} > utf8-{path.name}"
        )
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = content.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path} line {row}: byte 0x{content[error.start]:02x} is not UTF-8\n"
            f"convert the file, for example: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > utf8-{path.name}"
        ) from None


def _read_jsonl(name: str, text: str) -> Iterator[_Entry]:
    # not splitlines(): it also splits at U+2028 and others, which JSON strings may hold
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, _parse_object(line)


def _parse_object(line: str) -> dict[str, Any] | tuple[str, str]:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return f"not JSON ({error.msg}: character {error.pos + 1})", line
    except RecursionError:
        return "not JSON: nested too deeply", line
    return record if isinstance(record, dict) else (f"a JSON {type(record).__name__}, not an object", line)


def _read_json(name: str, text: str) -> Iterator[_Entry]:
    if not text.lstrip().startswith("["):
        _refuse_single_object(name, text)
        # many data sets name their JSON Lines files .json
        yield from _read_jsonl(name, text)
        return
    try:
        records = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{name} line {error.lineno} is not JSON ({error.msg}); repair the file") from None
    for number, record in enumerate(records, 1):
        yield (
            number,
            record if isinstance(record, dict) else (f"a {type(record).__name__}, not an object", json.dumps(record)),
        )


def _refuse_single_object(name: str, text: str) -> None:
    first = text.lstrip().partition("\n")[0]
    if not isinstance(_parse_object(first), dict) and isinstance(whole := _parse_object(text), dict):
        keys = ", ".join(list(whole)[:5])
        raise DataError(
            f"{name} is one JSON object (with {keys}), not a list of rows\n"
            "write the rows as a JSON list, or one on each line"
        )


def _read_csv(name: str, text: str) -> Iterator[_Entry]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    number = 0
    try:
        header = next(reader, [])
        if len(set(header)) != len(header) or not all(column.strip() for column in header):
            raise DataError(f"{name} line 1: the header has an empty or repeated column name; name each column once")
        separator = next((mark for mark in ";\t|" if len(header) == 1 and mark in header[0]), None)
        if separator:
            raise DataError(f"{name} line 1: cells are separated by {separator!r}; save it with commas between cells")
        for number, cells in enumerate(reader, 1):
            if not cells:
                continue
            if len(cells) != len(header):
                yield number, (f"{len(cells)} cells where the header has {len(header)}", ",".join(cells))
            else:
                yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"{name} row {number + 1} (line {reader.line_num}) is not CSV: {error}; repair it") from None


def _read_text(name: str, text: str) -> Iterator[_Entry]:
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield number, {"text": line.rstrip("\r")}


def _read_parquet(path: Path) -> Iterator[_Entry]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except pa.ArrowException:
        raise DataError(f"{path} is not a whole Parquet file; write it again") from None
    yield from enumerate(table.to_pylist(), 1)


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

"""Read one file: each kind of file to rows, strictly, so that what is not data is found here and not in training.

A file that is not of its kind is a `DataError`. A row that cannot be used is a `BadRow`, and the rows after it are
still read, wherever the format tells where the next row begins.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import closing
from typing import Any, NamedTuple

from configs.errors import DataError
from configs.places import DataFile, file_kind
from configs.streams import COMPRESSIONS, open_bytes, read_bytes, shown

_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_COMPRESSED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
_SPACE = re.compile(r"[ \t\n\r]*")
_VALUE_CHARACTERS = 2000
# Python refuses to convert longer ones, for the time it would take
_NUMBER_DIGITS = 4300


class BadRow(NamedTuple):
    """A row that cannot be used: why, and its content up to 2,000 characters, for the Deck only."""

    reason: str
    value: str


Row = dict[str, Any] | BadRow


def read_rows(file: DataFile) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) of each row in `file`: the line of a JSONL or text file, else the record; from 1.

    Raises:
        DataError: a file that cannot be read, is cut short, is not UTF-8, or is not of the kind its ending says.
    """
    path = file.path
    kind = file_kind(path)
    if kind == ".jsonl":
        return _json_lines(_lines(path))
    if kind == ".txt":
        return _text_rows(_lines(path))
    if kind == ".json":
        return _json_rows(path, _text(path))
    if kind in (".csv", ".tsv"):
        return _table_rows(path, _text(path), "," if kind == ".csv" else "\t")
    from tasks.get_data import arrow

    return arrow.read_rows(path, kind)


def bad_row(reason: str, value: str) -> BadRow:
    """Return a `BadRow` whose value is cut."""
    return BadRow(reason, value[:_VALUE_CHARACTERS])


def fault_of_text(record: Any) -> str | None:
    """Return what is wrong with a text anywhere in `record`: a NUL, or half of a surrogate pair; else None."""
    waiting = [record]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            if "\0" in item:
                return "holds a NUL byte"
            try:
                item.encode()
            except UnicodeEncodeError as error:
                return f"holds a lone surrogate (\\u{ord(item[error.start]):04x}), which is not text"
        elif isinstance(item, dict):
            waiting += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            waiting += item
    return None


def _lines(path: str) -> Iterator[tuple[int, str]]:
    """Yield (line number, line without its end), reading no further than the line."""
    with closing(open_bytes(path)) as stream:
        _refuse_other_encodings(path, stream.peek(1000)[:1000])
        # only \n ends a line: splitlines() also splits at U+2028 and others, which JSON strings may hold
        for number, line in enumerate(stream, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise _not_utf8(path, number, line[error.start]) from None
            yield number, text.removesuffix("\n")


def _text(path: str) -> str:
    content = read_bytes(path)
    _refuse_other_encodings(path, content[:1000])
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, content.count(b"\n", 0, error.start) + 1, content[error.start]) from None


def _refuse_other_encodings(path: str, start: bytes) -> None:
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if start.startswith(mark):
            raise DataError(f"{shown(path)} is {encoding}, not UTF-8\n{_conversion(path, encoding)}")
    for mark, ending in _COMPRESSED.items():
        if start.startswith(mark):
            raise DataError(f"{shown(path)} is compressed; add {ending} to its name")
    if start.count(0) > len(start) // 4 and b"\0\0" not in start:
        # every other byte of western text in UTF-16 is zero; zeros in a row are a hole in the file
        raise DataError(f"{shown(path)} seems to be UTF-16, not UTF-8\n{_conversion(path, 'UTF-16LE')}")


def _not_utf8(path: str, line: int, byte: int) -> DataError:
    return DataError(f"{shown(path)} line {line}: byte 0x{byte:02x} is not UTF-8\n{_conversion(path, 'WINDOWS-1252')}")


def _conversion(path: str, encoding: str) -> str:
    name = shown(path).rpartition("/")[2]
    if name.endswith(COMPRESSIONS):
        name = name.rpartition(".")[0]
    return f"convert the file, for example: iconv -f {encoding} -t UTF-8 {name} > utf8-{name}"


class _JsonParser:
    """Python's parser, but strict: it notes in `fault` what it would let pass, so that it goes on to the next row."""

    def __init__(self) -> None:
        self.fault: str | None = None
        self._decoder = json.JSONDecoder(
            object_pairs_hook=self._object, parse_constant=self._constant, parse_int=self._integer
        )

    def line(self, line: str) -> Row:
        """Return the object that is the whole of `line`."""
        if "\0" in line:
            return bad_row("holds a NUL byte", line)
        self.fault = None
        try:
            return self._checked(self._decoder.decode(line), line)
        except json.JSONDecodeError as error:
            return bad_row(f"not JSON ({error.msg}: character {error.pos + 1})", line)
        except RecursionError:
            return bad_row("not JSON: nested too deeply", line)

    def entry(self, text: str, start: int) -> tuple[Row, int]:
        """Return the object that begins at `start`, and where it ends.

        Raises:
            json.JSONDecodeError: no JSON begins there; also RecursionError.
        """
        self.fault = None
        record, end = self._decoder.raw_decode(text, start)
        return self._checked(record, text, start, end), end

    def _checked(self, record: Any, text: str, start: int = 0, end: int | None = None) -> Row:
        fault = self.fault
        if fault is None and not isinstance(record, dict):
            fault = f"a JSON {type(record).__name__}, not an object"
        if fault is None and text.find("\\u", start, len(text) if end is None else end) >= 0:
            # without an escape, text that was decoded from UTF-8 has neither
            fault = fault_of_text(record)
        return (
            record if fault is None else bad_row(fault, text[start : start + _VALUE_CHARACTERS][: _length(start, end)])
        )

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs) and self.fault is None:
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            self.fault = f"names the key `{_short(twice)}` twice"
        return record

    def _constant(self, name: str) -> None:
        self.fault = self.fault or f"holds {name}, which is not JSON"

    def _integer(self, digits: str) -> int:
        if len(digits) > _NUMBER_DIGITS:
            self.fault = self.fault or f"holds a number of {len(digits)} digits"
            return 0
        return int(digits)


def _length(start: int, end: int | None) -> int | None:
    return None if end is None else end - start


def _short(key: str) -> str:
    """Return a key as messages may show it: on one line, and not long."""
    return ascii(key)[1:-1][:40] if not key.isprintable() else key[:40]


def _json_lines(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Row]]:
    parser = _JsonParser()
    for number, line in lines:
        if line.strip():
            yield number, parser.line(line)


def _json_rows(path: str, text: str) -> Iterator[tuple[int, Row]]:
    if text.lstrip().startswith("["):
        yield from _json_list(path, text)
        return
    _refuse_single_object(path, text)
    # many data sets name their JSON Lines files .json
    yield from _json_lines(enumerate(text.split("\n"), 1))


def _refuse_single_object(path: str, text: str) -> None:
    first = text.lstrip().partition("\n")[0]
    if isinstance(_JsonParser().line(first), dict):
        return
    whole = _JsonParser().line(text)
    if isinstance(whole, dict):
        keys = ", ".join(_short(key) for key in list(whole)[:5])
        raise DataError(
            f"{shown(path)} is one JSON object (with {keys}), not a list of rows\n"
            "write the rows as a JSON list, or one on each line; leave other files out of a directory by a glob"
        )


def _json_list(path: str, text: str) -> Iterator[tuple[int, Row]]:
    parser = _JsonParser()
    # as an escape a NUL is a fault of its row; as it is, the parser would not find where that row ends
    text = text.replace("\0", "\\u0000")
    position = _skip_space(text, text.index("[") + 1)
    number = 0
    try:
        while number or not text.startswith("]", position):
            number += 1
            row, position = parser.entry(text, position)
            yield number, row
            position = _skip_space(text, position)
            if text.startswith("]", position):
                break
            if not text.startswith(",", position):
                raise json.JSONDecodeError("Expecting ',' delimiter", text, position)
            position = _skip_space(text, position + 1)
        if (end := _skip_space(text, position + 1)) < len(text):
            raise json.JSONDecodeError("Extra data", text, end)
    except json.JSONDecodeError as error:
        raise DataError(f"{shown(path)} line {error.lineno} is not JSON ({error.msg}); repair the file") from None
    except RecursionError:
        raise DataError(f"{shown(path)} record {number} is nested too deeply; repair the file") from None


def _skip_space(text: str, position: int) -> int:
    match = _SPACE.match(text, position)
    assert match is not None
    return match.end()


def _table_rows(path: str, text: str, separator: str) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    name, line, number = shown(path), 1, 0
    try:
        header = next(reader, [])
        if len(set(header)) != len(header) or not all(column.strip() for column in header):
            raise DataError(f"{name} line 1: the header has an empty or repeated column name; name each column once")
        other = next((mark for mark in ";,\t|" if len(header) == 1 and mark in header[0]), None)
        if other:
            raise DataError(
                f"{name} line 1: cells are separated by {other!r}; save it with {separator!r} between cells"
            )
        line = reader.line_num + 1
        for number, cells in enumerate(reader, 1):
            line = reader.line_num + 1
            if len(cells) != len(header) and cells:
                reason = f"{len(cells)} cells where the header has {len(header)}"
                yield number, bad_row(reason, separator.join(cells))
            elif any("\0" in cell for cell in cells):
                yield number, bad_row("holds a NUL byte", separator.join(cells))
            elif cells:
                yield number, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        kind = "CSV" if separator == "," else "TSV"
        raise DataError(f"{name} row {number + 1} (line {line}) is not {kind}: {error}; repair its quotes") from None


def _text_rows(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Row]]:
    for number, line in lines:
        if line.strip():
            yield number, bad_row("holds a NUL byte", line) if "\0" in line else {"text": line.rstrip("\r")}

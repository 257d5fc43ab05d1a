"""Read the rows of JSON Lines files and JSON lists. Owns Python's JSON parser, which accepts more than JSON."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any

from configs.addresses import shown_address
from configs.errors import DataError
from configs.foreign_json import MAX_DEPTH, is_nested_deeper
from configs.printable import one_line
from tasks.rows.rows import Row, bad_row, fault_of_characters, short_name
from tasks.rows.text_files import MAX_ROW_LENGTH, open_text, read_lines

_JSON_SPACE = " \t\n\r"
_SPACE = re.compile(f"[{_JSON_SPACE}]*")
# keys under which an object holds the rows of a whole data set
_WRAPPERS = ("data", "rows", "examples", "records", "items", "train")
_ANY_SPACE = re.compile(r"\s*")
# only these escapes may stand for a NUL or a lone surrogate
_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
# Python refuses to convert longer numbers, because of the time it takes
_MAX_DIGITS = min(sys.get_int_max_str_digits() or 4300, 4300)
_BLOCK_CHARACTERS = 2**20
# with this many characters from its beginning on, no number, literal or escape is misread
_EDGE_CHARACTERS = 16


class JsonParser:
    """Python's parser made strict. Where Python accepts more than JSON, the row is a bad one, and reading continues.

    A fast parser, which notes constants and repeated keys, tries each value first. What it does not accept as a valid
    object goes to an exact parser, which finds the reason.
    """

    def __init__(self) -> None:
        self._fault: str | None = None
        strict: Any = {
            "object_pairs_hook": self._object,
            "parse_constant": self._constant,
            "parse_float": self._float,
        }
        # a call for each integer would double the cost, and `int` itself raises for integers that are too long
        int_raises = sys.get_int_max_str_digits() == _MAX_DIGITS
        self._fast_decode = json.JSONDecoder(**strict, parse_int=None if int_raises else self._integer).raw_decode
        self._exact_decoder = json.JSONDecoder(**strict, parse_int=self._integer)

    def parse_line(self, line: str) -> Row:
        """Return the object that is the whole of `line`."""
        try:
            record, end = self._fast_decode(line)
        except (ValueError, RecursionError):
            return self._parse_exactly(line)
        is_whole = end == len(line) or not line[end:].strip(_JSON_SPACE)
        return record if is_whole and self._is_valid(record, line, 0, end) else self._parse_exactly(line)

    def parse_object(self, text: str, start: int) -> tuple[Row, int]:
        """Return the object that begins at `start`, and the position at which it ends.

        Raises:
            json.JSONDecodeError: no JSON begins there; also RecursionError.
        """
        try:
            record, end = self._fast_decode(text, start)
            if self._is_valid(record, text, start, end):
                return record, end
        except json.JSONDecodeError:
            raise
        except ValueError:
            # an integer is too long, which is a fault of this row alone
            pass
        self._fault = None
        record, end = self._exact_decoder.raw_decode(text, start)
        return self._row_or_fault(record, text, start, end), end

    def _parse_exactly(self, line: str) -> Row:
        if "\0" in line:
            return bad_row("holds a NUL byte", line)
        self._fault = None
        try:
            return self._row_or_fault(self._exact_decoder.decode(line), line, 0, len(line))
        except json.JSONDecodeError as error:
            return bad_row(f"not JSON ({one_line(error.msg)}: character {error.pos + 1})", line)
        except RecursionError:
            return bad_row(f"is nested more than {MAX_DEPTH} deep", line)

    def _is_valid(self, record: Any, text: str, start: int, end: int) -> bool:
        if self._fault is not None or type(record) is not dict or _is_too_deep(record, text, start, end):
            return False
        # Parsed text has a NUL or a surrogate only where an escape stands for it. Finding one character is several
        # times faster than finding two.
        return (
            text.find("\\", start, end) < 0
            or text.find("\\u", start, end) < 0
            or _SUSPECT_ESCAPE.search(text, start, end) is None
            or fault_of_characters(record) is None
        )

    def _row_or_fault(self, record: Any, text: str, start: int, end: int) -> Row:
        fault, self._fault = self._fault, None
        if fault is None and not isinstance(record, dict):
            fault = f"a JSON {type(record).__name__}, not an object"
        if fault is None and _is_too_deep(record, text, start, end):
            fault = f"is nested more than {MAX_DEPTH} deep"
        fault = fault or fault_of_characters(record)
        return record if fault is None else bad_row(fault, text, start, end)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs) and self._fault is None:
            seen: set[str] = set()
            repeated = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            self._fault = f"names the key `{short_name(repeated)}` twice"
        return record

    def _constant(self, name: str) -> None:
        self._fault = self._fault or f"holds {name}, which is not JSON"

    def _float(self, text: str) -> float:
        number = float(text)
        if math.isinf(number):
            self._fault = self._fault or "holds a number beyond 1.8e308"
        return number

    def _integer(self, number: str) -> int:
        num_digits = len(number.removeprefix("-"))
        if num_digits > _MAX_DIGITS:
            self._fault = self._fault or f"holds a number of {num_digits} digits"
            return 0
        return int(number)


def _is_too_deep(record: Any, text: str, start: int, end: int) -> bool:
    """Return whether a record, parsed from `text[start:end]`, could be read but not be written again, or compared."""
    num_marks = text.count("[", start, end) + text.count("{", start, end)
    return num_marks > MAX_DEPTH and is_nested_deeper(record)


class _Window:
    """The part of a stream that is being parsed: `text` from `position` on; more is read when it is needed.

    A row, and the space between two, has 64 Mi characters at most.
    """

    def __init__(self, path: str, stream: IO[str]) -> None:
        self._path, self._stream = path, stream
        self._lines_before = 0
        self.text = ""
        self.position = 0

    def read_more(self) -> bool:
        """Drop the text before `position` and at least double the rest; return whether the stream had more."""
        piece = self._stream.read(max(_BLOCK_CHARACTERS, len(self.text) - self.position))
        if not piece:
            return False
        self._lines_before += self.text.count("\n", 0, self.position)
        # an escaped NUL is a fault of its row; at a raw one the parser would stop, and not find the end of the row
        self.text = self.text[self.position :] + piece.replace("\0", "\\u0000")
        self.position = 0
        return True

    def line_number(self, position: int) -> int:
        """Return the number of the file's line, from 1, that holds a position of `text`."""
        return self._lines_before + self.text.count("\n", 0, position) + 1

    def skip_space(self, pattern: re.Pattern[str] = _SPACE) -> None:
        num_blank = 0
        while True:
            match = pattern.match(self.text, self.position)
            assert match is not None
            num_blank += match.end() - self.position
            self.position = match.end()
            if num_blank > MAX_ROW_LENGTH:
                where = f"before line {self.line_number(self.position)}"
                raise DataError(
                    f"{shown_address(self._path)} has more than {MAX_ROW_LENGTH} blank characters {where}; remove them"
                )
            if self.position < len(self.text) or not self.read_more():
                return

    def skip_mark(self, mark: str) -> bool:
        """Return whether the character `mark` comes next; if so, skip it and the space after it."""
        if not self.text.startswith(mark, self.position):
            return False
        self.position += 1
        self.skip_space()
        return True

    def _check_length(self) -> None:
        if len(self.text) - self.position > MAX_ROW_LENGTH:
            where = f"{shown_address(self._path)} line {self.line_number(self.position)}"
            raise DataError(
                f"{where} begins a row of over {MAX_ROW_LENGTH} characters\n"
                "close its quote or bracket, or write the rows as a JSON list, or one on each line"
            )

    def take_object(self, parser: JsonParser) -> Row:
        """Return the object that comes next, and skip it; more text is read until the object is whole.

        Raises:
            json.JSONDecodeError: no JSON comes next; its `pos` is a position of `text`. Also RecursionError.
        """
        while True:
            try:
                row, end = parser.parse_object(self.text, self.position)
            except json.JSONDecodeError as error:
                is_at_edge = error.pos + _EDGE_CHARACTERS > len(self.text) or error.msg.startswith("Unterminated")
                self._check_length()
                if not is_at_edge or not self.read_more():
                    raise
            else:
                # 12 may be the beginning of 123, and 1 that of 1.5
                if end + _EDGE_CHARACTERS <= len(self.text) or not self.read_more():
                    self.position = end
                    return row


def read_json_lines(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) of the lines that are not blank."""
    parser = JsonParser()
    for number, line in lines:
        if line and not line.isspace():
            yield number, parser.parse_line(line)


def read_json(path: str) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) for each entry of a JSON list; memory is bounded by the longest entry.

    A file that is not a list is read as JSON Lines, since many data sets name these .json.

    Raises:
        DataError: the file cannot be read, is not UTF-8, is not JSON, or is one object over several lines.
    """
    with open_text(path) as stream:
        window = _Window(path, stream)
        window.skip_space(_ANY_SPACE)
        if window.skip_mark("["):
            yield from _list_entries(path, window)
            return
        _refuse_single_object(path, window)
    yield from read_json_lines(read_lines(path))


def _list_entries(path: str, window: _Window) -> Iterator[tuple[int, Row]]:
    parser, number = JsonParser(), 0
    try:
        has_entry = not window.text.startswith("]", window.position)
        while has_entry:
            number += 1
            yield number, window.take_object(parser)
            window.skip_space()
            has_entry = window.skip_mark(",")
        if not window.skip_mark("]"):
            raise json.JSONDecodeError("Expecting ',' delimiter", window.text, window.position)
        if window.position < len(window.text):
            raise json.JSONDecodeError("Extra data", window.text, window.position)
    except json.JSONDecodeError as error:
        line = window.line_number(error.pos)
        raise DataError(
            f"{shown_address(path)} line {line} is not JSON ({one_line(error.msg)}); repair the file"
        ) from None
    except RecursionError:
        raise DataError(f"{shown_address(path)} record {number} is nested too deeply; repair the file") from None


def _refuse_single_object(path: str, window: _Window) -> None:
    """Raise `DataError` if the whole file is one object over several lines, or one that holds the rows."""
    first_line = window.line_number(window.position)
    try:
        row = window.take_object(JsonParser())
    except (json.JSONDecodeError, RecursionError):
        return
    last_line = window.line_number(window.position)
    window.skip_space()
    if not isinstance(row, dict) or window.position < len(window.text):
        return
    if row and _is_by_column(row):
        raise DataError(
            f"{shown_address(path)} holds its rows column by column, as pandas writes them; write one row on each "
            'line\nwith to_json(path, orient="records", lines=True)'
        )
    is_wrapped = any(isinstance(row.get(key), list) and row[key] and _are_objects(row[key]) for key in _WRAPPERS)
    if first_line != last_line or is_wrapped:
        keys = ", ".join(short_name(key) for key in list(row)[:5])
        raise DataError(
            f"{shown_address(path)} is one JSON object (with {keys}), not a list of rows\n"
            "write the rows as a JSON list, or one on each line; exclude other files of a directory with a glob"
        )


def _are_objects(values: list[Any]) -> bool:
    return all(isinstance(value, dict) for value in values)


def _is_by_column(row: dict[str, Any]) -> bool:
    """Return whether an object is a table as pandas writes it: by column, as objects or lists, or by numbered row."""
    values = list(row.values())
    if all(isinstance(value, dict) and value for value in values):
        return all(map(str.isdigit, row)) or all(all(map(str.isdigit, value)) for value in values)
    # a row of several lists has lists of their own lengths, or of objects
    is_lists = len(values) > 1 and all(isinstance(value, list) for value in values)
    return is_lists and len({len(value) for value in values}) == 1 and all(_are_texts(value) for value in values)


def _are_texts(values: list[Any]) -> bool:
    return len(values) > 1 and all(isinstance(value, str) for value in values)

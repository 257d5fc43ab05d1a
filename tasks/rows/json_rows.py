"""Read JSON Lines and JSON lists to rows. Owns Python's JSON parser, which would let pass what is not JSON."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from typing import IO, Any

from configs.errors import DataError
from tasks.files.streams import redacted
from tasks.rows.rows import Row, bad_row, fault_of_text, short_name
from tasks.rows.text_files import open_text, read_lines

_JSON_SPACE = " \t\n\r"
_SPACE = re.compile(f"[{_JSON_SPACE}]*")
_ANY_SPACE = re.compile(r"\s*")
# the only escapes that may stand for what is not text
_SUSPECT_ESCAPE = re.compile(r"\\u(?:0000|[dD][89a-fA-F])")
# Python refuses to convert longer ones, for the time it would take
_NUMBER_DIGITS = min(sys.get_int_max_str_digits() or 4300, 4300)
_BLOCK_CHARACTERS = 2**20
# no number, literal or escape is misread when this much of the text after its beginning is there
_EDGE_CHARACTERS = 16


class JsonParser:
    """Python's parser, but strict: what it would let pass is the fault of a row, so that it goes on to the next one.

    Each value is parsed by a first parser, which notes constants and repeated keys; whatever it does not take for a
    sound object goes to a second one, which finds the reason.
    """

    def __init__(self) -> None:
        self._fault: str | None = None
        strict: Any = {"object_pairs_hook": self._object, "parse_constant": self._constant}
        # a call for each integer costs as much as all else; `int` raises by itself for those that are too long
        refused_by_int = sys.get_int_max_str_digits() == _NUMBER_DIGITS
        self._first = json.JSONDecoder(**strict, parse_int=None if refused_by_int else self._integer).raw_decode
        self._second = json.JSONDecoder(**strict, parse_int=self._integer)

    def line(self, line: str) -> Row:
        """Return the object that is the whole of `line`."""
        try:
            record, end = self._first(line)
        except (ValueError, RecursionError):
            return self._faulty_line(line)
        is_whole = end == len(line) or not line[end:].strip(_JSON_SPACE)
        return record if is_whole and self._is_sound(record, line, 0, end) else self._faulty_line(line)

    def entry(self, text: str, start: int) -> tuple[Row, int]:
        """Return the object that begins at `start`, and where it ends.

        Raises:
            json.JSONDecodeError: no JSON begins there; also RecursionError.
        """
        try:
            record, end = self._first(text, start)
            if self._is_sound(record, text, start, end):
                return record, end
        except json.JSONDecodeError:
            raise
        except ValueError:
            # an integer that is too long, which is a fault of its row alone
            pass
        self._fault = None
        record, end = self._second.raw_decode(text, start)
        return self._checked(record, text, start, end), end

    def _faulty_line(self, line: str) -> Row:
        if "\0" in line:
            return bad_row("holds a NUL byte", line)
        self._fault = None
        try:
            return self._checked(self._second.decode(line), line, 0, len(line))
        except json.JSONDecodeError as error:
            return bad_row(f"not JSON ({error.msg}: character {error.pos + 1})", line)
        except RecursionError:
            return bad_row("not JSON: nested too deeply", line)

    def _is_sound(self, record: Any, text: str, start: int, end: int) -> bool:
        if self._fault is not None or type(record) is not dict:
            return False
        # Without an escape, text that was decoded from UTF-8 has neither NUL nor surrogate. One character is found
        # several times faster than two.
        return (
            text.find("\\", start, end) < 0
            or text.find("\\u", start, end) < 0
            or _SUSPECT_ESCAPE.search(text, start, end) is None
            or fault_of_text(record) is None
        )

    def _checked(self, record: Any, text: str, start: int, end: int) -> Row:
        fault, self._fault = self._fault, None
        if fault is None and not isinstance(record, dict):
            fault = f"a JSON {type(record).__name__}, not an object"
        fault = fault or fault_of_text(record)
        return record if fault is None else bad_row(fault, text, start, end)

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) != len(pairs) and self._fault is None:
            seen: set[str] = set()
            twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            self._fault = f"names the key `{short_name(twice)}` twice"
        return record

    def _constant(self, name: str) -> None:
        self._fault = self._fault or f"holds {name}, which is not JSON"

    def _integer(self, number: str) -> int:
        num_digits = len(number.removeprefix("-"))
        if num_digits > _NUMBER_DIGITS:
            self._fault = self._fault or f"holds a number of {num_digits} digits"
            return 0
        return int(number)


class _Window:
    """The part of a text that is being parsed: `text` from `position` on, to which more is added when it is needed."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self._lines_before = 0
        self.text = ""
        self.position = 0

    def more(self) -> bool:
        """Forget what was read, and at least double what is left; return whether there was more."""
        piece = self._stream.read(max(_BLOCK_CHARACTERS, len(self.text) - self.position))
        if not piece:
            return False
        self._lines_before += self.text.count("\n", 0, self.position)
        # as an escape a NUL is a fault of its row; as it is, the parser would not find where that row ends
        self.text = self.text[self.position :] + piece.replace("\0", "\\u0000")
        self.position = 0
        return True

    def line(self, position: int | None = None) -> int:
        """Return the line of the file, from 1, in which a place of `text` stands: where reading stands, or another."""
        return self._lines_before + self.text.count("\n", 0, self.position if position is None else position) + 1

    def skip(self, pattern: re.Pattern[str] = _SPACE) -> None:
        while True:
            match = pattern.match(self.text, self.position)
            assert match is not None
            self.position = match.end()
            if self.position < len(self.text) or not self.more():
                return

    def take(self, mark: str) -> bool:
        """Return whether the one character `mark` comes next, and pass over it and the space after it."""
        if not self.text.startswith(mark, self.position):
            return False
        self.position += 1
        self.skip()
        return True

    def entry(self, parser: JsonParser) -> Row:
        """Return the object that comes next and pass over it; as often as it is not whole, there is twice as much.

        Raises:
            json.JSONDecodeError: no JSON comes next; its `pos` is a place of `text`. Also RecursionError.
        """
        while True:
            try:
                row, end = parser.entry(self.text, self.position)
            except json.JSONDecodeError as error:
                is_at_edge = error.pos + _EDGE_CHARACTERS > len(self.text) or error.msg.startswith("Unterminated")
                if not is_at_edge or not self.more():
                    raise
            else:
                # 12 may be the beginning of 123, and 1 that of 1.5
                if end + _EDGE_CHARACTERS <= len(self.text) or not self.more():
                    self.position = end
                    return row


def read_json_lines(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Row]]:
    """Yield (line number, row) of the lines that are not blank."""
    parser = JsonParser()
    for number, line in lines:
        row = parser.line(line)
        if type(row) is dict or line.strip():
            yield number, row


def read_json(path: str) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) of a JSON list; memory is bounded by its longest entry.

    A file that is no list is read as JSON Lines: many data sets name these .json.

    Raises:
        DataError: a file that cannot be read, is not UTF-8, not JSON, or is one object.
    """
    with open_text(path) as stream:
        window = _Window(stream)
        window.skip(_ANY_SPACE)
        if window.take("["):
            yield from _list_entries(path, window)
            return
        _refuse_single_object(path, window)
    yield from read_json_lines(read_lines(path))


def _list_entries(path: str, window: _Window) -> Iterator[tuple[int, Row]]:
    parser, number = JsonParser(), 0
    try:
        is_more = not window.text.startswith("]", window.position)
        while is_more:
            number += 1
            yield number, window.entry(parser)
            window.skip()
            is_more = window.take(",")
        if not window.take("]"):
            raise json.JSONDecodeError("Expecting ',' delimiter", window.text, window.position)
        if window.position < len(window.text):
            raise json.JSONDecodeError("Extra data", window.text, window.position)
    except json.JSONDecodeError as error:
        line = window.line(error.pos)
        raise DataError(f"{redacted(path)} line {line} is not JSON ({error.msg}); repair the file") from None
    except RecursionError:
        raise DataError(f"{redacted(path)} record {number} is nested too deeply; repair the file") from None


def _refuse_single_object(path: str, window: _Window) -> None:
    """Raise where all of the text is one object that goes over several lines."""
    first_line = window.line()
    try:
        row = window.entry(JsonParser())
    except (json.JSONDecodeError, RecursionError):
        return
    last_line = window.line()
    window.skip()
    if isinstance(row, dict) and first_line != last_line and window.position == len(window.text):
        keys = ", ".join(short_name(key) for key in list(row)[:5])
        raise DataError(
            f"{redacted(path)} is one JSON object (with {keys}), not a list of rows\n"
            "write the rows as a JSON list, or one on each line; leave other files out of a directory by a glob"
        )

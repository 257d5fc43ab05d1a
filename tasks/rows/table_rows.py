"""Read the rows of CSV and TSV files. Owns Python's csv reader, which reads on to the end after an unclosed quote."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import islice
from typing import TextIO

from configs.addresses import first_line, shown_address
from configs.errors import DataError
from tasks.rows.rows import Row, bad_row
from tasks.rows.text_files import MAX_BLANK_LINES, MAX_ROW_LENGTH, open_text

# a cell that is longer is likely to have an unclosed quote
_MAX_CELL_LENGTH = MAX_ROW_LENGTH
INDEX_COLUMN = "Unnamed: 0"
"""The name that pandas gives to the first column if it has none; pandas writes its index so."""
_QUOTES = re.compile('"+')


def read_table(path: str, separator: str) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) for each row below the header. All cells are text; memory is bounded by the longest row.

    A first column without a name is an index that pandas wrote, and is named as pandas names it, `Unnamed: 0`.

    Raises:
        DataError: the file cannot be read, is not UTF-8, its header or its quotes are broken, or a row is too long.
    """
    # the limit holds for the whole process, and its default is shorter than a long conversation
    csv.field_size_limit(_MAX_CELL_LENGTH)
    name, line, number, num_blank = shown_address(path), 1, 0, 0
    with open_text(path) as text:
        lines = _BoundedLines(name, text)
        reader = csv.reader(lines, delimiter=separator, strict=True)
        try:
            header = next(reader, [])
            if header[:1] == [""] and len(header) > 1:
                header[0] = INDEX_COLUMN
            _check_header(name, header, separator)
            line = reader.line_num + 1
            for number, cells in enumerate(reader, 1):
                line = reader.line_num + 1
                lines.length, num_blank = 0, 0 if cells else num_blank + 1
                if num_blank > MAX_BLANK_LINES:
                    fault = f"has over {MAX_BLANK_LINES} blank lines before line {line}; remove them"
                    raise DataError(f"{name} {fault}")
                if len(cells) != len(header) and cells:
                    reason = f"{len(cells)} cells where the header has {len(header)}"
                    yield number, bad_row(reason, separator.join(cells))
                elif "\0" in "".join(cells):
                    yield number, bad_row("holds a NUL byte", separator.join(cells))
                elif cells:
                    yield number, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            last_line = reader.line_num
            fault = f"is not {'CSV' if separator == ',' else 'TSV'}: {first_line(error)}; repair its quotes"
            if "field limit" in str(error):
                line = _line_of_open_quote(path, separator, line, last_line)
                fault = f"has a cell of over {_MAX_CELL_LENGTH} characters; close the quote before it, or shorten it"
            raise DataError(f"{name} row {number + 1} (line {line}) {fault}") from None


class _BoundedLines:
    """The lines of a text; `length` counts their characters since the last row, which its reader sets back to 0."""

    def __init__(self, name: str, text: TextIO) -> None:
        self._name, self._text = name, text
        self._most = 2 * _MAX_CELL_LENGTH
        self._num_lines = self.length = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._text.readline(self._most + 1)
        self._num_lines += 1
        self.length += len(line)
        if self.length > self._most:
            raise DataError(
                f"{self._name} line {self._num_lines}: over {self._most} characters without the end of a row\n"
                "close its quote, shorten the row, or remove blank lines"
            )
        if not line:
            raise StopIteration
        return line


def _check_header(name: str, header: list[str], separator: str) -> None:
    if len(set(header)) != len(header) or not all(column.strip() for column in header):
        raise DataError(f"{name} line 1: the header has an empty or repeated column name; name each column once")
    other = next((mark for mark in ";,\t|" if len(header) == 1 and mark in header[0]), None)
    if other:
        raise DataError(f"{name} line 1: cells are separated by {other!r}; save it with {separator!r} between cells")


def _line_of_open_quote(path: str, separator: str, first_line: int, last_line: int) -> int:
    """Return the line of the quote that is still open at the end of `last_line`; its row begins in `first_line`."""
    is_open, opened = False, first_line
    with open_text(path) as text:
        for number, line in enumerate(islice(text, first_line - 1, last_line), first_line):
            for quotes in _QUOTES.finditer(line):
                begins_cell = quotes.start() == 0 or line[quotes.start() - 1] == separator
                # a pair of quotes is a quote within the text, or an empty cell
                if len(quotes.group()) % 2 and (is_open or begins_cell):
                    is_open = not is_open
                    opened = number if is_open else opened
    return opened

"""Read CSV and TSV files to rows. Owns Python's csv reader, which takes a quote that never closes for one long cell."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from itertools import islice

from configs.errors import DataError
from tasks.files.streams import redacted
from tasks.rows.rows import Row, bad_row
from tasks.rows.text_files import open_text

# a cell is held in memory; beyond this, a quote that was never closed is the likelier cause
_CELL_CHARACTERS = 64 * 2**20
_QUOTES = re.compile('"+')


def read_table(path: str, separator: str) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) of the rows below the header; memory is bounded by the longest row. All cells are text.

    Raises:
        DataError: a file that cannot be read, is not UTF-8, or whose header or quotes are not those of a table.
    """
    # the limit is one for the whole process, and its default is less than a long conversation
    csv.field_size_limit(_CELL_CHARACTERS)
    name, line, number = redacted(path), 1, 0
    with open_text(path) as text:
        reader = csv.reader(text, delimiter=separator, strict=True)
        try:
            header = next(reader, [])
            _check_header(name, header, separator)
            line = reader.line_num + 1
            for number, cells in enumerate(reader, 1):
                line = reader.line_num + 1
                if len(cells) != len(header) and cells:
                    reason = f"{len(cells)} cells where the header has {len(header)}"
                    yield number, bad_row(reason, separator.join(cells))
                elif "\0" in "".join(cells):
                    yield number, bad_row("holds a NUL byte", separator.join(cells))
                elif cells:
                    yield number, dict(zip(header, cells, strict=True))
        except csv.Error as error:
            last_line = reader.line_num
            fault = f"is not {'CSV' if separator == ',' else 'TSV'}: {error}; repair its quotes"
            if "field limit" in str(error):
                line = _line_of_open_quote(path, separator, line, last_line)
                fault = f"has a cell of over {_CELL_CHARACTERS} characters; close the quote before it, or shorten it"
            raise DataError(f"{name} row {number + 1} (line {line}) {fault}") from None


def _check_header(name: str, header: list[str], separator: str) -> None:
    if len(set(header)) != len(header) or not all(column.strip() for column in header):
        raise DataError(f"{name} line 1: the header has an empty or repeated column name; name each column once")
    other = next((mark for mark in ";,\t|" if len(header) == 1 and mark in header[0]), None)
    if other:
        raise DataError(f"{name} line 1: cells are separated by {other!r}; save it with {separator!r} between cells")


def _line_of_open_quote(path: str, separator: str, first_line: int, last_line: int) -> int:
    """Return the line of the quote that is open at the end of `last_line`, in the row that begins in `first_line`."""
    is_open, opened = False, first_line
    with open_text(path) as text:
        for number, line in enumerate(islice(text, first_line - 1, last_line), first_line):
            for quotes in _QUOTES.finditer(line):
                begins_cell = quotes.start() == 0 or line[quotes.start() - 1] == separator
                # in pairs they are quotes of the text, or an empty cell
                if len(quotes.group()) % 2 and (is_open or begins_cell):
                    is_open = not is_open
                    opened = number if is_open else opened
    return opened

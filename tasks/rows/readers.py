"""Read the rows of a file of any kind, strictly, so that faulty data are found here and not in training.

A file that is not of the kind its ending says raises `DataError`. A row that cannot be used becomes a `BadRow`, and
reading continues wherever the format shows where the next row begins. No file is held in memory as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tasks.files.places import DataFile, file_kind, is_splittable
from tasks.rows.json_rows import read_json, read_json_lines
from tasks.rows.rows import BadRow, Row, bad_row
from tasks.rows.table_rows import read_table
from tasks.rows.text_files import read_lines

__all__ = ["BadRow", "Row", "read_rows"]


def read_rows(file: DataFile, start: int = 0, end: int | None = None) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) for each row of `file`. Numbers count lines of a JSONL or text file, else records, from 1.

    `start` and `end` are byte offsets, only for files that `is_splittable`: the lines that begin in [start, end) are
    read, to their ends, and the first of them has number 1. `tasks.files.streams.range_digest` counts and hashes
    the same lines. Memory is bounded by the longest row, or by one batch of a Parquet or Arrow file.

    Raises:
        DataError: the file cannot be read, is cut short, is not UTF-8, or is not of the kind its ending says.
    """
    path = file.path
    assert (start, end) == (0, None) or is_splittable(path)
    kind = file_kind(path)
    if kind == ".jsonl":
        return read_json_lines(read_lines(path, start, end))
    if kind == ".txt":
        return _text_rows(read_lines(path, start, end))
    if kind == ".json":
        return read_json(path)
    if kind in (".csv", ".tsv"):
        return read_table(path, "," if kind == ".csv" else "\t")
    from tasks.rows import arrow

    return arrow.read_rows(path, kind)


def _text_rows(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, Row]]:
    for number, line in lines:
        if line.strip():
            yield number, bad_row("holds a NUL byte", line) if "\0" in line else {"text": line.rstrip("\r")}

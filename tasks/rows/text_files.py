"""Read a file as text, strictly UTF-8, line by line or as a stream; it is never held in memory as a whole."""

from __future__ import annotations

import codecs
import io
import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager

from configs.addresses import shown_address
from configs.errors import DataError
from tasks.files.streams import (
    POINTER_START,
    compression,
    open_bytes,
    open_lines,
    open_raw,
    pointer_error,
    range_digest,
)

_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}
_COMPRESSED = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst"}
_NUM_FIRST_BYTES = 1000
MAX_ROW_LENGTH = 64 * 2**20
"""Most bytes of a line, and most characters of a row of a list or a table: a row is held in memory."""
MAX_BLANK_LINES = 2**20
"""Most blank lines without a row between: they yield nothing, and nobody would see that gigabytes of them are read."""


def read_lines(path: str, start: int = 0, end: int | None = None) -> Iterator[tuple[int, str]]:
    r"""Yield (line number from 1, line without its `\n`) for each line that begins at a byte in [start, end).

    Memory is bounded by the longest line, of 64 MiB at most: a few kilobytes of gzip or zstd may hold a line of
    gigabytes. A byte order mark is no part of the file's first line.

    Raises:
        DataError: the file cannot be read, is not UTF-8, has a line of more than 64 MiB, or too many blank lines;
            the message names the line within the whole file.
    """
    if start == 0 and end is not None:
        # the range may be too short to show the encoding
        with closing(open_raw(path)) as beginning:
            _refuse_other_encodings(path, beginning)
    with closing(open_bytes(path) if (start, end) == (0, None) else open_lines(path, start, end)) as stream:
        if (start, end) == (0, None):
            _refuse_other_encodings(path, stream)
        # only \n ends a line: splitlines() also splits at U+2028 and others, which JSON strings may hold
        num_blank = 0
        for number, line in enumerate(iter(lambda: stream.readline(MAX_ROW_LENGTH + 1), b""), 1):
            num_blank = num_blank + 1 if line.isspace() else 0
            if len(line) > MAX_ROW_LENGTH or num_blank > MAX_BLANK_LINES:
                raise _too_long(path, range_digest(path, 0, start)[1] + number if start else number, num_blank > 0)
            try:
                text = line.decode("utf-8-sig" if number == 1 and start == 0 else "utf-8")
            except UnicodeDecodeError as error:
                lines_before = range_digest(path, 0, start)[1]
                raise _not_utf8(path, lines_before + number, line[error.start]) from None
            yield number, text.removesuffix("\n")


@contextmanager
def open_text(path: str) -> Iterator[io.TextIOWrapper]:
    """Yield a stream of the file's text, without its byte order mark and with its line ends unchanged.

    Raises:
        DataError: as `read_lines`, also while the stream is read within the context.
    """
    with closing(open_bytes(path)) as stream:
        _refuse_other_encodings(path, stream)
        if stream.peek(len(codecs.BOM_UTF8)).startswith(codecs.BOM_UTF8):
            stream.read(len(codecs.BOM_UTF8))
        try:
            yield io.TextIOWrapper(stream, encoding="utf-8", newline="")
        except UnicodeDecodeError:
            # read again for the error that names the line: the stream does not count lines
            for _ in read_lines(path):
                pass
            raise


def _refuse_other_encodings(path: str, stream: io.BufferedReader) -> None:
    first_bytes = stream.peek(_NUM_FIRST_BYTES)[:_NUM_FIRST_BYTES]
    if first_bytes.startswith(POINTER_START):
        raise pointer_error(path)
    for mark, encoding in _BYTE_ORDER_MARKS.items():
        if first_bytes.startswith(mark):
            raise DataError(f"{shown_address(path)} is {encoding}, not UTF-8\n{_conversion(path, encoding)}")
    for mark, ending in _COMPRESSED.items():
        if first_bytes.startswith(mark):
            raise DataError(f"{shown_address(path)} is compressed; add {ending} to its name")
    if first_bytes.count(0) > len(first_bytes) // 4 and b"\0\0" not in first_bytes:
        # every second byte of western text in UTF-16 is zero; two zeros in a row are a hole in the file
        raise DataError(f"{shown_address(path)} seems to be UTF-16, not UTF-8\n{_conversion(path, 'UTF-16LE')}")


def _too_long(path: str, line: int, is_blank: bool) -> DataError:
    if is_blank:
        return DataError(
            f"{shown_address(path)} has over {MAX_BLANK_LINES} blank lines before line {line}; remove them"
        )
    return DataError(
        f"{shown_address(path)} line {line} is longer than 64 MiB; write one row on each line, or shorten it"
    )


def _not_utf8(path: str, line: int, byte: int) -> DataError:
    return DataError(
        f"{shown_address(path)} line {line}: byte 0x{byte:02x} is not UTF-8\n{_conversion(path, 'WINDOWS-1252')}"
    )


def _conversion(path: str, encoding: str) -> str:
    name = shown_address(path).rpartition("/")[2]
    name = name[: len(name) - len(compression(path))]
    # users copy the command
    copy = shlex.quote(f"utf8-{name}")
    return f"convert the file, for example: iconv -f {encoding} -t UTF-8 {shlex.quote(name)} > {copy}"

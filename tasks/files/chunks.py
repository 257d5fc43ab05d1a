"""Cuts the bytes of a source into pieces: as they are stored, by lines of a range, or decompressed from zstd."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from configs.printable import one_line

CHUNK_BYTES = 2**20
# a few bytes of zstd may decompress to megabytes: after a piece that did, smaller pieces are read
_ZSTD_CHUNK_BYTES = 2**14
_ZSTD_SMALL_CHUNK_BYTES = 2**8
# `zstd --long=31` writes windows of this size; the library's default limit is 2**27
_ZSTD_WINDOW_BYTES = 2**31


def chunks(source: Any) -> Iterator[bytes]:
    """Return what is left of a source, in pieces of at most `CHUNK_BYTES`."""
    return iter(lambda: source.read(CHUNK_BYTES), b"")


def line_chunks(source: Any, start: int, end: int | None) -> Iterator[bytes]:
    """Yield the lines that begin in [start, end), in pieces, from a source positioned one byte before `start`."""
    position, has_begun = max(start - 1, 0), start == 0
    for chunk in chunks(source):
        first = 0 if has_begun else chunk.find(b"\n") + 1
        if not has_begun:
            has_begun = first > 0
            if end is not None and position + (first or len(chunk)) >= end:
                return
        # the first \n at `end - 1` or later ends the last line of the range
        last = -1 if end is None or not has_begun else chunk.find(b"\n", max(end - 1 - position, first))
        if has_begun:
            yield chunk[first : last + 1 if last >= 0 else None]
        if last >= 0:
            return
        position += len(chunk)


def zstd_chunks(source: Any) -> Iterator[bytes]:
    """Yield the content of all frames. The library's own stream ends without an error if a file was cut short."""
    import zstandard

    frame, size = None, _ZSTD_SMALL_CHUNK_BYTES
    while data := source.read(size):
        while data:
            frame = frame or zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()
            try:
                content = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise EOFError(one_line(error)) from None
            size = _ZSTD_CHUNK_BYTES if len(content) < CHUNK_BYTES else _ZSTD_SMALL_CHUNK_BYTES
            yield content
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame has no end")

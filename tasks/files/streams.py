"""The bytes of a local or remote file, decompressed, and whatever goes wrong with them in one line.

Whatever a file system, a network or a compression raises leaves as a `DataError` that names the file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from configs.errors import DataError, FineTuneError, UnreachableStoreError

COMPRESSIONS = (".gz", ".zst")
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CHUNK_BYTES = 2**20
# a few bytes of zstd may stand for megabytes: pieces are small where one of them became much
_ZSTD_CHUNK_BYTES = 2**14
_ZSTD_SMALL_CHUNK_BYTES = 2**8
# `zstd --long=31` writes such windows; the library's own bound is 2**27
_ZSTD_WINDOW_BYTES = 2**31
_NO_ANSWER = {
    "ClientConnectionError",
    "ClientConnectorError",
    "ConnectTimeoutError",
    "EndpointConnectionError",
    "gaierror",
    "ReadTimeoutError",
    "TransportError",
}


def is_remote(path: str) -> bool:
    """Return whether `path` is an address such as s3://bucket/rows.jsonl."""
    return _PROTOCOL.match(path) is not None and not path.startswith("file://")


def redacted(path: str) -> str:
    """Return `path` as messages show it: without the user, password and query of an address, which may be secret."""
    if not is_remote(path):
        return path
    return re.sub(r"(?<=://)[^/@]*@", "", without_query(path))


def base_name(path: str) -> str:
    name = without_query(path).rstrip("/").rpartition("/")[2]
    return (unquote(name) if is_remote(path) else name).encode("utf-8", "replace").decode()


def without_query(path: str) -> str:
    # in any other place `?` is a wildcard or part of the name
    return re.split(r"[?#]", path, maxsplit=1)[0] if path.startswith(("http://", "https://")) else path


def compression(path: str) -> str:
    """Return `.gz` or `.zst` where the file's name ends so, whatever the case; else an empty text."""
    return next((ending for ending in COMPRESSIONS if base_name(path).lower().endswith(ending)), "")


def open_raw(path: str) -> io.BufferedReader:
    """Return a stream of the file's bytes as they are stored.

    Raises:
        DataError: the file is not there or cannot be read; also while it is read.
    """
    source = _open(path)
    return _buffered(path, _chunks(source), source)


def open_bytes(path: str) -> io.BufferedReader:
    """Return a stream of the file's bytes, decompressed when it ends in .gz or .zst.

    Raises:
        DataError: the file is not there, cannot be read, or is cut short; also while it is read.
    """
    source = _open(path)
    if compression(path) == ".gz":
        return _buffered(path, _chunks(gzip.GzipFile(fileobj=source, mode="rb")), source)
    return _buffered(path, _zstd_chunks(source) if compression(path) == ".zst" else _chunks(source), source)


def open_lines(path: str, start: int = 0, end: int | None = None) -> io.BufferedReader:
    r"""Return a stream of the lines that begin at a byte in [start, end) of the file as it is stored.

    A line begins at byte 0 and after each `\n`, and goes on to its `\n` or the end of the file, past `end` too. Ranges
    that lie side by side thus give each line once, wherever they are cut; `end=None` is the end of the file.

    Raises:
        DataError: the file is not there or cannot be read; also while it is read.
    """
    if end is not None and end <= start:
        return io.BufferedReader(io.BytesIO())  # type: ignore[arg-type]
    # the byte before tells whether a line begins at `start`
    source = _open_at(path, max(start - 1, 0))
    return _buffered(path, _line_chunks(source, start, end), source)


def range_digest(path: str, start: int = 0, end: int | None = None) -> tuple[str, int]:
    """Return the SHA-256 (hex) of the bytes of the lines that `open_lines` gives, and the number of these lines.

    The digest is of the bytes from which the rows of the range are made, the last line whole, and of no others.

    Raises:
        DataError: the file is not there or cannot be read.
    """
    digest, num_lines, last = hashlib.sha256(), 0, b"\n"
    with closing(open_lines(path, start, end)) as stream:
        while block := stream.read(_CHUNK_BYTES):
            digest.update(block)
            num_lines += block.count(b"\n")
            last = block[-1:]
    return digest.hexdigest(), num_lines + (last != b"\n")


def open_seekable(path: str, place: int = 1) -> Any | None:
    """Return the stored bytes as a file in which one may seek; None where a web server does not give them from `place`.

    Raises:
        DataError: the file is not there or cannot be read; while it is read, whatever the file system raises.
    """
    if not path.startswith(("http://", "https://")):
        return _open(path)
    try:
        system, address = file_system(path)
        source = system.open(address, "rb")
        source.seek(place)
        source.read(1)
        source.seek(0)
    except ValueError:
        return None
    except Exception as error:  # see `file_system`
        raise user_error(path, error) from None
    return source


def file_system(path: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the place in it.

    What these file systems raise is an open set, so that their callers catch every exception and give it to
    `user_error`, which shows only what is safe.
    """
    from fsspec.core import url_to_fs

    if path.startswith(("s3://", "s3a://")):
        return url_to_fs(path, **_s3_options())
    if not path.startswith(("http://", "https://")):
        return url_to_fs(path)
    import aiohttp

    # the client's own bound is five minutes for a whole file, and it does not read the proxy of the environment
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    return url_to_fs(path, client_kwargs={"trust_env": True, "timeout": timeout})


def _s3_options() -> dict[str, Any]:
    """Return the S3 store that Flyte names to its pods (flytekit/configuration/internal.py, class AWS), or nothing."""
    said = {name: os.environ.get(f"FLYTE_AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT")}
    options: dict[str, Any] = {"key": said["ACCESS_KEY_ID"], "secret": said["SECRET_ACCESS_KEY"]}
    options["client_kwargs"] = {"endpoint_url": said["ENDPOINT"]} if said["ENDPOINT"] else None
    return {name: value for name, value in options.items() if value}


def _open(path: str) -> Any:
    if is_remote(path):
        try:
            system, place = file_system(path)
            # block_size=0 streams a web file in one request; others are read in blocks
            web = path.startswith(("http://", "https://"))
            return system.open(place, "rb", **({"block_size": 0} if web else {}))
        except Exception as error:  # see `file_system`
            raise user_error(path, error) from None
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            # a pipe would be empty when it is read a second time
            raise DataError(f"{path} is not a regular file; copy its content into one")
        return open(path, "rb")
    except OSError as error:
        raise user_error(path, error) from None


def _open_at(path: str, start: int) -> Any:
    """Return the source at its byte `start`, which is passed over where a server knows no ranges."""
    source = open_seekable(path, start) if start else None
    try:
        if source is not None:
            source.seek(start)
        else:
            source = _open(path)
            while start and (chunk := source.read(min(start, _CHUNK_BYTES))):
                start -= len(chunk)
    except Exception as error:  # see `file_system`
        raise user_error(path, error) from None
    return source


def _chunks(source: Any) -> Iterator[bytes]:
    return iter(lambda: source.read(_CHUNK_BYTES), b"")


def _line_chunks(source: Any, start: int, end: int | None) -> Iterator[bytes]:
    """Yield the lines that begin in [start, end), in pieces, from a source that stands one byte before `start`."""
    position, within = max(start - 1, 0), start == 0
    for chunk in _chunks(source):
        first = 0 if within else chunk.find(b"\n") + 1
        if not within:
            within = first > 0
            if end is not None and position + (first or len(chunk)) >= end:
                return
        # a line that begins at `end` or later comes after the first \n at `end - 1` or later
        last = -1 if end is None or not within else chunk.find(b"\n", max(end - 1 - position, first))
        if within:
            yield chunk[first : last + 1 if last >= 0 else None]
        if last >= 0:
            return
        position += len(chunk)


def _zstd_chunks(source: Any) -> Iterator[bytes]:
    """Yield the content of all frames. The library's own stream ends without a word where a file was cut."""
    import zstandard

    frame, size = None, _ZSTD_SMALL_CHUNK_BYTES
    while data := source.read(size):
        while data:
            frame = frame or zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()
            try:
                content = frame.decompress(data)
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from None
            size = _ZSTD_CHUNK_BYTES if len(content) < _CHUNK_BYTES else _ZSTD_SMALL_CHUNK_BYTES
            yield content
            data = frame.unused_data if frame.eof else b""
            frame = None if frame.eof else frame
    if frame is not None:
        raise EOFError("the last frame has no end")


def _buffered(path: str, chunks: Iterable[bytes], source: Any) -> io.BufferedReader:
    return io.BufferedReader(_Chunks(path, chunks, source), _CHUNK_BYTES)


class _Chunks(io.RawIOBase):
    """Pieces of bytes as a stream, whose errors name the file."""

    def __init__(self, path: str, chunks: Iterable[bytes], source: Any) -> None:
        self._path, self._chunks, self._source = path, iter(chunks), source
        self._left = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view, filled = memoryview(buffer), 0
        while filled < len(view) and self._fill():
            size = min(len(view) - filled, len(self._left))
            view[filled : filled + size] = self._left[:size]
            self._left = self._left[size:]
            filled += size
        return filled

    def close(self) -> None:
        self._source.close()
        super().close()

    def _fill(self) -> bool:
        """Return whether there are bytes left, after reading the next piece if need be."""
        try:
            while not self._left:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return False
                self._left = memoryview(chunk)
        except Exception as error:  # see `file_system`
            raise user_error(self._path, error) from None
        return True


def user_error(path: str, error: Exception) -> FineTuneError:
    """Return the error that a user reads; of an unknown one only the type, as its text may hold an address's key."""
    name = redacted(path)
    if isinstance(error, FineTuneError):
        return error
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        # fsspec calls every failure of a web server so, and keeps the true one
        return user_error(path, error.__cause__)
    if isinstance(error, gzip.BadGzipFile) and str(error).startswith("Not a gzipped file"):
        return DataError(f"{name} is not gzip, or has other bytes after it; correct its ending or compress it again")
    if isinstance(error, EOFError | zlib.error | gzip.BadGzipFile):
        return DataError(f"{name} is cut short or damaged; copy it again")
    status = getattr(error, "status", None)
    if isinstance(error, FileNotFoundError) or status in (404, 410):
        return DataError(f"{name} does not exist; correct the path")
    if isinstance(error, ImportError):
        return DataError(f"{name}: the package for such addresses is not installed; install it or copy the file here")
    if isinstance(error, OSError) and error.strerror and not is_remote(path):
        return DataError(f"{name} cannot be read: {error.strerror}; check its permissions")
    if is_remote(path):
        reason = f"the server answered {status}" if status else type(error).__name__
        kind = DataError if status or not _is_no_answer(error) else UnreachableStoreError
        return kind(f"{name} cannot be read ({reason}); check the address, the credentials and the network")
    return DataError(f"{name} cannot be read ({type(error).__name__}); check the path")


def _is_no_answer(error: Exception) -> bool:
    """Return whether a server was not reached at all, by the words of the libraries for S3, web and Google addresses.

    By name, so that a library which was not needed is not imported here.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or bool(names & _NO_ANSWER)

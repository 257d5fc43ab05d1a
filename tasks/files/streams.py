"""Reads the bytes of a local or remote file, and decompresses them.

Any error of a file system, a network or a compression leaves as a `DataError` of one line that names the file.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import re
import stat
import zlib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from configs.addresses import last_part, shown_address
from configs.errors import DataError, FineTuneError, UnreachableStoreError
from configs.printable import one_line
from tasks.files.chunks import CHUNK_BYTES, chunks, line_chunks, zstd_chunks
from tasks.files.waiting import NoAnswerError, Wait, limit_seconds, waiting_for

COMPRESSIONS = (".gz", ".zst")
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
POINTER_BYTES = 1024
"""A Git LFS pointer is shorter: https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md."""
POINTER_START = b"version https://git-lfs.github.com/spec/v1"
_WEB_PIECE_BYTES = 2**16
_STORE_FACTOR = 2
_STORE_BLOCK_BYTES = 2**23
_UNREACHABLE_ERRORS = {
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


def base_name(path: str) -> str:
    """Return the name of a file or folder; of an address, without what is not shown."""
    name = unquote(last_part(path)) if is_remote(path) else path.rstrip("/").rpartition("/")[2]
    return one_line(name.encode("utf-8", "replace").decode())


def compression(path: str) -> str:
    """Return `.gz` or `.zst` if the file's name ends in it, in any case; else an empty string."""
    return next((ending for ending in COMPRESSIONS if base_name(path).lower().endswith(ending)), "")


def open_raw(path: str) -> io.BufferedReader:
    """Return a stream of the file's bytes as they are stored.

    Raises:
        DataError: the file does not exist or cannot be read; reading the stream may raise it too.
    """
    source = _open_source(path)
    return _buffered_stream(path, chunks(source), source)


def open_bytes(path: str) -> io.BufferedReader:
    """Return a stream of the file's bytes, decompressed if its name ends in .gz or .zst.

    Raises:
        DataError: the file does not exist, cannot be read, or is cut short; reading the stream may raise it too.
    """
    source = _open_source(path)
    if compression(path) == ".gz":
        return _buffered_stream(path, chunks(gzip.GzipFile(fileobj=source, mode="rb")), source)
    return _buffered_stream(path, zstd_chunks(source) if compression(path) == ".zst" else chunks(source), source)


def open_lines(path: str, start: int = 0, end: int | None = None) -> io.BufferedReader:
    r"""Return a stream of the lines that begin at a byte in [start, end) of the file as it is stored.

    A line begins at byte 0 and after each `\n`. It is read up to its `\n` or the end of the file, even past `end`, so
    that adjacent ranges give each line exactly once, wherever they meet. `end=None` is the end of the file.

    Raises:
        DataError: the file does not exist or cannot be read; reading the stream may raise it too.
    """
    if end is not None and end <= start:
        return io.BufferedReader(io.BytesIO())  # type: ignore[arg-type]
    # the byte before `start` tells whether a line begins there
    source = _open_at(path, max(start - 1, 0))
    return _buffered_stream(path, line_chunks(source, start, end), source)


def is_pointer(path: str) -> bool:
    """Return whether a file is the pointer that Git keeps in place of a large file, and not the file itself.

    Raises:
        DataError: the file does not exist or cannot be read.
    """
    with closing(open_raw(path)) as stream:
        return stream.read(len(POINTER_START)) == POINTER_START


def pointer_error(path: str) -> DataError:
    """Return the error for a file that `is_pointer`."""
    return DataError(
        f"{shown_address(path)} is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
    )


def range_digest(path: str, start: int = 0, end: int | None = None) -> tuple[str, int]:
    """Return the SHA-256 (hex) of the lines that `open_lines` gives, and their number.

    The digest covers exactly the bytes that the rows of the range are made from, with the whole last line.

    Raises:
        DataError: the file does not exist or cannot be read.
    """
    digest, num_lines, last = hashlib.sha256(), 0, b"\n"
    with closing(open_lines(path, start, end)) as stream:
        while block := stream.read(CHUNK_BYTES):
            digest.update(block)
            num_lines += block.count(b"\n")
            last = block[-1:]
    return digest.hexdigest(), num_lines + (last != b"\n")


def open_seekable(path: str, probe_offset: int = 1) -> Any | None:
    """Return the stored bytes as a seekable file, or None if a web server does not serve ranges.

    One byte at `probe_offset` is read to find out. Reading the file raises the errors of its file system.

    Raises:
        DataError: the file does not exist or cannot be read.
    """
    if not path.startswith(("http://", "https://")):
        return _open_source(path)
    try:
        with waiting_for(shown_address(path)):
            system, address = file_system(path)
            source = system.open(address, "rb")
            source.seek(probe_offset)
            source.read(1)
            source.seek(0)
    except ValueError:
        return None
    except Exception as error:  # see `file_system`
        raise user_error(path, error) from None
    return _PatientFile(path, source, waiting_for_store(path))


def waiting_for_store(address: str) -> Wait:
    """Return a block in which the store of an address is awaited.

    It is given twice the time, since of a block of a file, of 8 MiB, nothing is seen before it is whole.

    Raises:
        NoAnswerError: it did not come in time.
    """
    return waiting_for(shown_address(address), limit_seconds() * _STORE_FACTOR)


def file_system(path: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the path in it.

    Each file system's library raises errors of its own, and the user chooses the protocol. So callers catch every
    exception and pass it to `user_error`, which shows only what is safe.
    """
    from fsspec.core import url_to_fs

    if path.startswith(("s3://", "s3a://")):
        return url_to_fs(path, **_s3_options())
    if not path.startswith(("http://", "https://")):
        return url_to_fs(path)
    import aiohttp

    # by default a whole file must arrive within five minutes, and the environment's proxy is ignored; what takes too
    # long ends by `waiting_for`
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=2 * limit_seconds())
    return url_to_fs(path, client_kwargs={"trust_env": True, "timeout": timeout})


def _s3_options() -> dict[str, Any]:
    """Return the S3 settings that Flyte gives its pods (flytekit/configuration/internal.py, class AWS), if any."""
    variables = {
        name: os.environ.get(f"FLYTE_AWS_{name}") for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY", "ENDPOINT")
    }
    options: dict[str, Any] = {"key": variables["ACCESS_KEY_ID"], "secret": variables["SECRET_ACCESS_KEY"]}
    options["default_block_size"] = _STORE_BLOCK_BYTES
    options["client_kwargs"] = {"endpoint_url": variables["ENDPOINT"]} if variables["ENDPOINT"] else None
    return {name: value for name, value in options.items() if value}


def _open_source(path: str) -> Any:
    if is_remote(path):
        try:
            # block_size=0 streams a web file in one request; others are read in blocks
            web = path.startswith(("http://", "https://"))
            wait = waiting_for(shown_address(path)) if web else waiting_for_store(path)
            with wait:
                system, store_path = file_system(path)
                source = system.open(store_path, "rb", **({"block_size": 0} if web else {}))
            return _PatientFile(path, source, wait, _WEB_PIECE_BYTES if web else CHUNK_BYTES)
        except Exception as error:  # see `file_system`
            raise user_error(path, error) from None
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            # a pipe would be empty at the second reading
            raise DataError(f"{shown_address(path)} is not a regular file; copy its content into one")
        return open(path, "rb")
    except OSError as error:
        raise user_error(path, error) from None


class _PatientFile:
    """A file of a store or web server whose reading ends: with bytes, or with an error that a user reads."""

    def __init__(self, path: str, source: Any, wait: Wait, most_bytes: int | None = None) -> None:
        self._path, self._source, self._wait, self._most_bytes = path, source, wait, most_bytes

    def read(self, size: int = -1) -> bytes:
        """Read as the file itself does, or at most `most_bytes`, so that slow progress is seen.

        Raises:
            UnreachableStoreError: the server was silent for too long.
        """
        if self._most_bytes is not None and size > self._most_bytes:
            size = self._most_bytes
        try:
            with self._wait:
                content: bytes = self._source.read(size)
        except NoAnswerError as error:
            # a library that reads would take a `TimeoutError` for a damaged file
            raise user_error(self._path, error) from None
        self._wait.received(len(content))
        return content

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def _open_at(path: str, start: int) -> Any:
    """Return the source positioned at byte `start`; the bytes before it are read if a server serves no ranges."""
    source = open_seekable(path, start) if start else None
    try:
        if source is not None:
            source.seek(start)
        else:
            source = _open_source(path)
            while start and (chunk := source.read(min(start, CHUNK_BYTES))):
                start -= len(chunk)
    except Exception as error:  # see `file_system`
        raise user_error(path, error) from None
    return source


def _buffered_stream(path: str, chunks: Iterable[bytes], source: Any) -> io.BufferedReader:
    return io.BufferedReader(_ChunkStream(path, chunks, source), CHUNK_BYTES)


class _ChunkStream(io.RawIOBase):
    """Chunks of bytes as one stream, whose errors name the file."""

    def __init__(self, path: str, chunks: Iterable[bytes], source: Any) -> None:
        self._path, self._chunks, self._source = path, iter(chunks), source
        self._unread = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view, filled = memoryview(buffer), 0
        while filled < len(view) and self._fill():
            size = min(len(view) - filled, len(self._unread))
            view[filled : filled + size] = self._unread[:size]
            self._unread = self._unread[size:]
            filled += size
        return filled

    def close(self) -> None:
        self._source.close()
        super().close()

    def _fill(self) -> bool:
        """Return whether unread bytes are left, after reading the next chunk if none were."""
        try:
            while not self._unread:
                chunk = next(self._chunks, None)
                if chunk is None:
                    return False
                self._unread = memoryview(chunk)
        except Exception as error:  # see `file_system`
            raise user_error(self._path, error) from None
        return True


def user_error(path: str, error: Exception) -> FineTuneError:
    """Return the error that a user reads. Of an unknown error it shows only the type: its text may hold a secret."""
    name = shown_address(path)
    if isinstance(error, FineTuneError):
        return error
    if isinstance(error, NoAnswerError):
        found = f"its server was silent, or nearly so, for {error.seconds:g} s"
        return UnreachableStoreError(f"{name} cannot be read: {found}; check the address and the server, and run again")
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        # fsspec raises this for every failure of a web server, with the real error as its cause
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
        kind = DataError if status or not _is_unreachable(error) else UnreachableStoreError
        return kind(f"{name} cannot be read ({reason}); check the address, the credentials and the network")
    return DataError(f"{name} cannot be read ({type(error).__name__}); check the path")


def _is_unreachable(error: Exception) -> bool:
    """Return whether no server was reached at all, by the error classes of the S3, web and Google libraries.

    Classes are compared by name, so that no library is imported here.
    """
    names = {kind.__name__ for kind in type(error).__mro__}
    return isinstance(error, ConnectionError | TimeoutError) or bool(names & _UNREACHABLE_ERRORS)

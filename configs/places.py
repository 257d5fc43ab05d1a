"""Where a source's rows lie: the files behind a path, glob, directory or address, and their bytes.

The plan hashes these files and a later step reads them. Both must mean the same files, and name the same faults in the
same words, so that both stand on this module. Whatever a file system, a network or a compression raises leaves it as
a `DataError` of one line.
"""

from __future__ import annotations

import glob
import gzip
import io
import os
import re
import stat
import zlib
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote

from configs.errors import DataError, FineTuneError

FILE_ENDINGS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
COMPRESSIONS = (".gz", ".zst")
_PROTOCOL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_MAGIC = re.compile(r"[*?\[]")
_CHUNK_BYTES = 2**20
# a few bytes of zstd may stand for megabytes: small pieces bound what one of them becomes
_ZSTD_CHUNK_BYTES = 2**14
# `zstd --long=31` writes such windows; the library's own bound is 2**27
_ZSTD_WINDOW_BYTES = 2**31


@dataclass(frozen=True)
class DataFile:
    """One file of a source. `name` is what row ids call it: its base name, or its path below the directory or glob."""

    path: str
    name: str


def expand(path: str | list[str]) -> list[str]:
    """Return the paths of the files that `path` stands for; see `find_files`."""
    return [file.path for file in find_files(path)]


def find_files(path: str | list[str]) -> list[DataFile]:
    """Return the files of a path, glob, directory (recursive) or address, or of a list of these, each file once.

    Files are sorted within a glob or directory, where hidden files and those of other endings are passed over.

    Raises:
        DataError: a path that does not exist or cannot be read, an ending that no reader knows, or a directory or
            glob without a file of a known ending.
    """
    found: dict[str, DataFile] = {}
    for entry in [path] if isinstance(path, str) else path:
        for file in _remote_files(entry) if is_remote(entry) else _local_files(entry):
            found.setdefault(file.path if is_remote(file.path) else str(Path(file.path).absolute()), file)
    return _with_distinct_names(list(found.values()))


def is_remote(path: str) -> bool:
    """Return whether `path` is an address such as s3://bucket/rows.jsonl."""
    return _PROTOCOL.match(path) is not None and not path.startswith("file://")


def shown(path: str) -> str:
    """Return `path` as messages show it: without the user, password and query of an address, which may be secret."""
    if not is_remote(path):
        return path
    return re.sub(r"(?<=://)[^/@]*@", "", _without_query(path))


def file_kind(path: str) -> str:
    """Return the ending that says how a file is read, such as `.jsonl`, in lower case and without .gz or .zst.

    Raises:
        DataError: none of `FILE_ENDINGS`.
    """
    name = PurePosixPath(_base_name(path).lower())
    kind = (name.with_suffix("") if name.suffix in COMPRESSIONS else name).suffix
    if kind not in FILE_ENDINGS:
        raise DataError(f"{shown(path)} ends in none of {_known_endings()}; rename or convert it")
    return kind


def open_raw(path: str) -> io.BufferedReader:
    """Return a stream of the file's bytes as they are stored.

    Raises:
        DataError: the file is not there or cannot be read; also while it is read.
    """
    source = _open(path)
    return _buffered(path, iter(lambda: source.read(_CHUNK_BYTES), b""), source)


def open_bytes(path: str) -> io.BufferedReader:
    """Return a stream of the file's bytes, decompressed when it ends in .gz or .zst.

    Raises:
        DataError: the file is not there, cannot be read, or is cut short; also while it is read.
    """
    source = _open(path)
    compression = PurePosixPath(_base_name(path).lower()).suffix
    if compression == ".gz":
        unzipped = gzip.GzipFile(fileobj=source, mode="rb")
        return _buffered(path, iter(lambda: unzipped.read(_CHUNK_BYTES), b""), source)
    if compression == ".zst":
        return _buffered(path, _zstd_chunks(source), source)
    return _buffered(path, iter(lambda: source.read(_CHUNK_BYTES), b""), source)


def read_bytes(path: str) -> bytes:
    """Return the file's whole content, decompressed when it ends in .gz or .zst.

    Raises:
        DataError: the file is not there, cannot be read, or is cut short.
    """
    with closing(open_bytes(path)) as stream:
        return stream.read()


def _local_files(entry: str) -> list[DataFile]:
    try:
        place = Path(entry.removeprefix("file://")).expanduser()
        if place.is_dir():
            paths = [Path(folder, name) for folder, _, names in os.walk(place, onerror=_raise) for name in names]
            return _usable(entry, [(str(path), str(path.relative_to(place))) for path in paths])
        if place.exists():
            file_kind(str(place))
            return [DataFile(str(place), _base_name(str(place)))]
        if _MAGIC.search(entry):
            # not Path.glob, which refuses `**.jsonl`
            matches = glob.glob(str(place), recursive=True)  # noqa: PTH207
            root = _fixed_part(str(place))
            return _usable(entry, [(path, _below(root, path)) for path in matches if not Path(path).is_dir()])
    except (OSError, RuntimeError) as error:
        # RuntimeError: `~name` of a user who is not there
        raise _explained(entry, error) from None
    raise DataError(f"{entry} does not exist (looked in {Path.cwd()}); correct the path")


def _remote_files(entry: str) -> list[DataFile]:
    if entry.startswith(("http://", "https://")):
        if "*" in entry:
            raise DataError(f"{shown(entry)}: a web server does not list its files; name each of them")
        file_kind(entry)
        return [DataFile(entry, _base_name(entry))]
    try:
        system, place = _file_system(entry)
        kind = _kind_of_place(system, place)
        if kind == "directory":
            paths, root = system.find(place), place
        elif kind is None and _MAGIC.search(place):
            try:
                matches = system.glob(place, detail=True)
            except ValueError:
                raise DataError(f"{shown(entry)}: `**` stands alone between slashes, as in **/*.jsonl") from None
            paths, root = [path for path, info in matches.items() if info["type"] == "file"], _fixed_part(place)
        elif kind is None:
            raise DataError(f"{shown(entry)} does not exist; correct the address")
        else:
            file_kind(entry)
            return [DataFile(entry, _base_name(entry))]
        # not fsspec's own unstrip_protocol, which forgets the server of ftp:// and the like
        address = entry.rstrip("/").removesuffix(place)
        return _usable(entry, [(address + path, _below(root, path)) for path in paths])
    except Exception as error:  # each protocol's library has errors of its own, and the user chooses the protocol
        raise _explained(entry, error) from None


def _kind_of_place(system: Any, place: str) -> str | None:
    try:
        return system.info(place)["type"]
    except FileNotFoundError:
        return None


def _usable(entry: str, found: list[tuple[str, str]]) -> list[DataFile]:
    """Return the files that a reader knows, sorted, from (path, name) of each file found."""
    files = []
    for path, name in sorted(found):
        parts = PurePosixPath(name).parts
        endings = [end + compression for end in FILE_ENDINGS for compression in ("", *COMPRESSIONS)]
        if name.lower().endswith(tuple(endings)) and not any(part.startswith(".") for part in parts):
            # a name that is not UTF-8 cannot be written into reports
            files.append(DataFile(path, name.encode("utf-8", "replace").decode()))
    if not files:
        raise DataError(f"{shown(entry)} has no file that ends in {_known_endings()}; correct the path or add files")
    return files


def _with_distinct_names(files: list[DataFile]) -> list[DataFile]:
    """Return the files, those of one name called by what their paths do not share: a/rows.jsonl and b/rows.jsonl."""
    folders: dict[str, list[str]] = {}
    for file in files:
        folders.setdefault(file.name, []).append(_without_query(file.path).rpartition("/")[0] + "/")
    shared = {name: os.path.commonprefix(same).rpartition("/")[0] + "/" for name, same in folders.items()}  # noqa: RUF071
    return [
        file
        if len(folders[file.name]) == 1
        else DataFile(file.path, _without_query(file.path).removeprefix(shared[file.name]))
        for file in files
    ]


def _fixed_part(pattern: str) -> str:
    """Return the directory in which a glob's first wildcard stands."""
    return _MAGIC.split(pattern, maxsplit=1)[0].rpartition("/")[0]


def _below(root: str, path: str) -> str:
    return path.removeprefix(root).lstrip("/")


def _base_name(path: str) -> str:
    name = _without_query(path).rstrip("/").rpartition("/")[2]
    return (unquote(name) if is_remote(path) else name).encode("utf-8", "replace").decode()


def _without_query(path: str) -> str:
    # in any other place `?` is a wildcard or part of the name
    return re.split(r"[?#]", path, maxsplit=1)[0] if path.startswith(("http://", "https://")) else path


def _known_endings() -> str:
    return f"{', '.join(FILE_ENDINGS)} (or these and {' or '.join(COMPRESSIONS)})"


def _file_system(path: str) -> tuple[Any, str]:
    """Return fsspec's file system for an address, and the place in it."""
    from fsspec.core import url_to_fs

    if not path.startswith(("http://", "https://")):
        return url_to_fs(path)
    import aiohttp

    # the client's own bound is five minutes for a whole file, and it does not read the proxy of the environment
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=30, sock_read=60)
    return url_to_fs(path, client_kwargs={"trust_env": True, "timeout": timeout})


def _open(path: str) -> Any:
    if is_remote(path):
        try:
            system, place = _file_system(path)
            # block_size=0 streams a web file in one request; others are read in blocks
            web = path.startswith(("http://", "https://"))
            return system.open(place, "rb", **({"block_size": 0} if web else {}))
        except Exception as error:  # see _remote_files
            raise _explained(path, error) from None
    try:
        if not stat.S_ISREG(Path(path).stat().st_mode):
            # a pipe would be empty when it is read a second time
            raise DataError(f"{path} is not a regular file; copy its content into one")
        return open(path, "rb")
    except OSError as error:
        raise _explained(path, error) from None


def _zstd_chunks(source: Any) -> Iterator[bytes]:
    """Yield the content of all frames. The library's own stream ends without a word where a file was cut."""
    import zstandard

    frame = None
    while data := source.read(_ZSTD_CHUNK_BYTES):
        while data:
            frame = frame or zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_BYTES).decompressobj()
            try:
                yield frame.decompress(data)
            except zstandard.ZstdError as error:
                raise EOFError(str(error)) from None
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

    def readall(self) -> bytes:
        pieces = []
        while self._fill():
            pieces.append(bytes(self._left))
            self._left = memoryview(b"")
        return b"".join(pieces)

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
        except Exception as error:  # see _remote_files
            raise _explained(self._path, error) from None
        return True


def _explained(path: str, error: Exception) -> FineTuneError:
    """Return the error that a user reads; of an unknown one only the type, as its text may hold an address's key."""
    name = shown(path)
    if isinstance(error, FineTuneError):
        return error
    if isinstance(error, FileNotFoundError) and isinstance(error.__cause__, Exception):
        # fsspec calls every failure of a web server so, and keeps the true one
        return _explained(path, error.__cause__)
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
        return DataError(f"{name} cannot be read ({reason}); check the address, the credentials and the network")
    return DataError(f"{name} cannot be read ({type(error).__name__}); check the path")


def _raise(error: OSError) -> None:
    raise error

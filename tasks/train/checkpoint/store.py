"""Where checkpoints are kept: one folder per attempt, on a disk or in an object store, that names the one before it.

Flyte tells every attempt its own folder and that of the attempt just before. An attempt that was killed before it saved
anything would break the chain, so the first thing an attempt writes is the name of its predecessor's folder.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import xxhash
from fsspec.implementations.local import LocalFileSystem

from configs.addresses import first_line
from configs.errors import ArtifactError
from configs.printable import one_line
from tasks.files.full_disk import is_disk_full

_PREVIOUS_FILE = "previous.txt"
_MOST_ATTEMPTS = 64
_TRIES_PER_CALL = 5
_FIRST_WAIT_SECONDS = 0.2
_CHUNK_BYTES = 2**22

Result = TypeVar("Result")


def filesystem_of(uri: str) -> Any:
    """Return fsspec's file system for `uri`."""
    return fsspec.core.url_to_fs(uri)[0]


@dataclass(frozen=True)
class CheckpointPlaces:
    """URIs of the folders of this attempt and of the one before it, if there was one."""

    destination: str
    previous: str | None = None
    filesystem: Callable[[str], Any] = filesystem_of


class Store:
    """The folder of one attempt. Names are relative, with `/`.

    Every operation is tried up to 5 times, with waits of 0.2, 0.4, 0.8 and 1.6 s, so that an object store that fails
    now and then does not end a run. A file appears whole or not at all: object stores guarantee it, and on a disk the
    file is written under another name and renamed.
    """

    def __init__(self, uri: str, filesystem: Callable[[str], Any] = filesystem_of) -> None:
        self.uri, self.filesystem = uri.rstrip("/"), filesystem
        self._files = filesystem(self.uri)
        self._root = str(self._files._strip_protocol(self.uri)).rstrip("/")
        protocol = self._files.protocol
        self._is_disk = "file" in ([protocol] if isinstance(protocol, str) else protocol)

    def __repr__(self) -> str:
        return f"Store({self.uri})"

    def write_text(self, name: str, text: str) -> None:
        """Write a small file."""
        self._put(name, lambda path: self._files.pipe_file(path, text.encode()))

    def read_text(self, name: str) -> str | None:
        """Return the content of a file, or None if there is none."""
        try:
            content: bytes = self._persist(name, lambda: self._files.cat_file(self._path(name)))
        except FileNotFoundError:
            return None
        return content.decode("utf-8", errors="replace")

    def upload(self, local: Path, name: str) -> None:
        """Copy or hard-link a file into the store; the file must not be changed afterwards."""

        def put(path: str) -> None:
            if self._is_disk and type(self._files) is LocalFileSystem:
                # on the same disk a link takes no time and no space
                with contextlib.suppress(OSError):
                    Path(path).hardlink_to(local)
                    return
            self._files.put_file(str(local), path)

        self._put(name, put)

    def download(self, name: str, local: Path) -> None:
        """Copy a file from the store to `local`.

        Raises:
            FileNotFoundError: the store has no such file.
        """
        local.parent.mkdir(parents=True, exist_ok=True)
        self._persist(name, lambda: self._files.get_file(self._path(name), str(local)))

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(self.sizes())

    def sizes(self) -> dict[str, int]:
        """Return the names of all files with their sizes in bytes."""
        try:
            # a cached listing would not show what another machine wrote
            self._files.invalidate_cache()
            found = self._persist("", lambda: self._files.find(self._root, detail=True))
        except FileNotFoundError:
            return {}
        return {str(path).removeprefix(self._root).lstrip("/"): int(info["size"]) for path, info in found.items()}

    def remove(self, name: str) -> None:
        """Delete a file or a folder; it is no error if there is none."""
        try:
            self._persist(name, lambda: self._files.rm(self._path(name), recursive=True))
        except FileNotFoundError:
            return

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    def _put(self, name: str, write: Callable[[str], Any]) -> None:
        path = self._path(name)

        def put() -> None:
            if not self._is_disk:
                write(path)
                return
            self._files.makedirs(path.rpartition("/")[0], exist_ok=True)
            partial = f"{path}.partial-{os.getpid()}"
            try:
                write(partial)
                Path(partial).replace(path)
            except OSError:
                Path(partial).unlink(missing_ok=True)
                raise

        self._persist(name, put)

    def _persist(self, name: str, operation: Callable[[], Result]) -> Result:
        for number in range(1, _TRIES_PER_CALL + 1):
            try:
                return operation()
            except FileNotFoundError:
                raise
            except OSError as error:
                if number == _TRIES_PER_CALL or is_disk_full(error):
                    attempts = "1 attempt" if number == 1 else f"{number} attempts"
                    raise ArtifactError(
                        f"checkpoint {one_line(self.uri)}/{one_line(name)}: {type(error).__name__} after {attempts}: "
                        f"{first_line(str(error)) or 'no reason given'}\n"
                        + (
                            "the disk is full: raise train.cluster.disk_gib, or lower train.checkpoint.keep"
                            if is_disk_full(error)
                            else "is the store reachable, and may this machine write to it?"
                        )
                    ) from error
                time.sleep(_FIRST_WAIT_SECONDS * 2 ** (number - 1))
        raise AssertionError("the last attempt returned or raised")


def stores(places: CheckpointPlaces) -> list[Store]:
    """Return the stores of this attempt and of those before it, newest first."""
    return list(_chain(places))


def _chain(places: CheckpointPlaces) -> Iterator[Store]:
    own = Store(places.destination, places.filesystem)
    yield own
    seen = {own.uri}
    previous = places.previous
    while previous and previous.rstrip("/") not in seen and len(seen) < _MOST_ATTEMPTS:
        store = Store(previous, places.filesystem)
        seen.add(store.uri)
        yield store
        previous = store.read_text(_PREVIOUS_FILE)


def name_previous(places: CheckpointPlaces) -> None:
    """Write into this attempt's store where the attempt before it saved; call this first of all."""
    if places.previous and places.previous.rstrip("/") != places.destination.rstrip("/"):
        Store(places.destination, places.filesystem).write_text(_PREVIOUS_FILE, places.previous)


def checksum_of(path: Path) -> str:
    """Return the XXH3 hash of a file, 128 bits in hexadecimal: a fast check for damage, not a signature."""
    digest = xxhash.xxh3_128()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()

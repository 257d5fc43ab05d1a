"""A folder at an address, such as s3://bucket/model: its files, and a revision that changes when their content does.

The plan records a model's revision and a later step fetches the model. Both compute the revision here, so that a folder
that changed in between is refused, and never trained under the old revision.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

from configs.addresses import shown_address
from configs.errors import ModelError
from tasks.files.streams import file_system, user_error, waiting_for_store

# the keys under which s3fs, gcsfs and adlfs report a checksum
_CHECKSUM_KEYS = ("ETag", "md5Hash", "etag")
_CHUNK_BYTES = 2**20
_PIECE_BYTES = 2**22


@dataclass(frozen=True)
class StoredFile:
    """One file below the folder. `path` is its path in the file system; `checksum` changes with its content."""

    path: str
    size: int
    checksum: str


def stored_files(address: str) -> dict[str, StoredFile]:
    """Return the files below the folder `address` by their names within it, sorted, without hidden files.

    Raises:
        ModelError: the address is of a web server, which does not list its files, or there is no such folder.
        DataError: the store cannot be read.
    """
    if address.startswith(("http://", "https://")):
        raise ModelError(
            f"model.name={shown_address(address)}: a web server does not list its files; name a folder of a store, "
            "such as s3://bucket/model, a hub id or a directory"
        )
    try:
        with waiting_for_store(address):
            system, folder = file_system(address)
            found = system.find(folder, detail=True)
    except Exception as error:  # see `file_system`
        raise user_error(address, error) from None
    names = {path: path.removeprefix(folder).strip("/") for path in sorted(found)}
    files = {
        name: StoredFile(path, int(found[path]["size"]), _checksum(address, system, path, found[path]))
        for path, name in names.items()
        if name and not any(part.startswith(".") for part in name.split("/"))
    }
    if not files:
        raise ModelError(
            f"model.name={shown_address(address)} is not a folder, or is empty; name one that holds config.json, "
            "weights and tokenizer"
        )
    return files


def folder_revision(files: dict[str, StoredFile]) -> str:
    """Return a SHA-256 (hex) of the files' names, sizes and checksums."""
    digest = hashlib.sha256()
    for name in sorted(files):
        digest.update(f"{name}\0{files[name].size}\0{files[name].checksum}\n".encode())
    return digest.hexdigest()


def read_range(address: str, file: StoredFile, start: int = 0, end: int | None = None) -> bytes:
    """Return the bytes [start, end) of a file in the folder `address`; `end=None` is the file's end.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        last = file.size if end is None else min(end, file.size)
        with waiting_for_store(address) as wait:
            system, _ = file_system(address)
            pieces = []
            for first in range(start, last, _PIECE_BYTES):
                pieces.append(bytes(system.cat_file(file.path, start=first, end=min(first + _PIECE_BYTES, last))))
                wait.moved(len(pieces[-1]))
            return b"".join(pieces)
    except Exception as error:  # see `file_system`
        raise user_error(address, error) from None


def _checksum(address: str, system: Any, path: str, info: dict[str, Any]) -> str:
    """Return the store's own checksum of a file, or the SHA-256 of its bytes if the store keeps none."""
    kept = next((str(info[key]) for key in _CHECKSUM_KEYS if info.get(key)), "")
    if kept:
        return kept.strip('"')
    digest = hashlib.sha256()
    try:
        with waiting_for_store(address) as wait, system.open(path, "rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                digest.update(chunk)
                wait.moved(len(chunk))
    except Exception as error:  # see `file_system`
        raise user_error(address, error) from None
    return digest.hexdigest()

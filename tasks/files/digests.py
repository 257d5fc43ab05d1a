"""Digests of artifacts. A digest stands in the artifact's name, so it travels wherever the artifact's address does.

Every step that reads an artifact compares the content with the digest in its address. So what is scored, quantized,
exported and published is what was written, whatever happened on the disk or in the store meanwhile. A digest protects
from accidents and from changes by others, not from somebody who can also change the addresses that Flyte keeps.
"""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import xxhash

from configs.addresses import shown_address
from configs.errors import ArtifactError

# 128 bits: https://github.com/Cyan4973/xxHash, several times as fast as a disk reads
_NAMED = re.compile(r"\.xxh3-(?P<digest>[0-9a-f]{32})(?=[./]|$)")
_BLOCK_BYTES = 2**20
# the library leaves Python's lock, and more threads than that only wait for the disk
_MOST_THREADS = 8
_SHOWN_CHARACTERS = 12


def content_digest(path: Path) -> str:
    """Return the digest of a file, or of a folder's files with their paths in it; links count as what they name.

    Empty folders do not count: stores do not keep them.

    Raises:
        OSError: a file cannot be read.
    """
    if not path.is_dir():
        return _file_digest(path).hex()
    files = {file.relative_to(path).as_posix(): file for file in path.rglob("*") if not file.is_dir()}
    names = sorted(files)
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:
        digests = threads.map(_file_digest, (files[name] for name in names))
        whole = xxhash.xxh3_128()
        for name, digest in zip(names, digests, strict=True):
            # the name's length keeps two names apart from one with the digest's bytes in it
            encoded = name.encode("utf-8", "surrogateescape")
            whole.update(len(encoded).to_bytes(8, "big") + encoded + digest)
    return str(whole.hexdigest())


def sealed_name(name: str, digest: str) -> str:
    """Return a name with a digest, such as `model.xxh3-<digest>`; an ending such as .parquet stays the last."""
    ending = Path(name).suffix
    return f"{name.removesuffix(ending)}.xxh3-{digest}{ending}"


def digest_in(address: str) -> str:
    """Return the digest in the last part of an address; empty if it has none."""
    found = _NAMED.search(address.rstrip("/").rpartition("/")[2])
    return found["digest"] if found else ""


def is_unchanged(path: Path, address: str) -> bool:
    """Return whether the content at `path` has the digest in `address`; an address without one is never changed."""
    digest = digest_in(address)
    return not digest or content_digest(path) == digest


def check_digest(path: Path, address: str, fix: str) -> None:
    """Compare the content at `path`, a copy of what is at `address`, with the digest in `address`.

    Raises:
        ArtifactError: they differ. The message ends with `fix`.
    """
    if not is_unchanged(path, address):
        raise ArtifactError(
            f"{shown_address(address)} was changed after it was written: its content no longer has the digest "
            f"{digest_in(address)[:_SHOWN_CHARACTERS]}... in its name\n{fix}"
        )


def _file_digest(file: Path) -> bytes:
    digest = xxhash.xxh3_128()
    with file.open("rb", buffering=0) as stream:
        buffer = memoryview(bytearray(_BLOCK_BYTES))
        while size := stream.readinto(buffer):
            digest.update(buffer[:size])
    return bytes(digest.digest())

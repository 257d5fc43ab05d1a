"""Drops the entries of Flyte's local cache that name deleted files, and explains a cache that cannot be used.

A laptop's outputs lie under the temporary directory, which systems empty. Flyte's local cache would still name them,
and the next run would end in a traceback about a path. Once an entry is dropped, its step runs again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flyteidl.core.literals_pb2 import Literal, LiteralMap
from flytekit.core import local_cache

from configs.errors import ArtifactError
from tasks.files.waiting import NoAnswerError, waiting_for

LOCKED_SECONDS = 20.0


def cache_folder() -> Path:
    """Return the folder of Flyte's local cache."""
    return Path(local_cache.CACHE_LOCATION).expanduser()


@contextmanager
def explained_cache() -> Iterator[None]:
    """Turn the errors of the library that keeps the cache into one line with what mends it.

    Raises:
        ArtifactError: the cache is damaged, locked by another process, or cannot be read or written.
    """
    from diskcache import Timeout
    from google.protobuf.message import DecodeError

    folder = cache_folder()
    try:
        # the library waits a minute for another process, more than once, and says nothing
        with waiting_for(f"Flyte's local cache in {folder}, which another process uses,", LOCKED_SECONDS):
            yield
    except (Timeout, NoAnswerError):
        raise ArtifactError(_locked(folder)) from None
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            raise ArtifactError(_locked(folder)) from None
        raise ArtifactError(_unusable(folder, str(error))) from None
    except (sqlite3.Error, DecodeError) as error:
        raise ArtifactError(
            f"Flyte's local cache in {folder} is damaged ({type(error).__name__}); delete it, and all steps run again: "
            f"rm -rf {folder}"
        ) from None
    except OSError as error:
        raise ArtifactError(_unusable(folder, error.strerror or type(error).__name__)) from None


def _unusable(folder: Path, reason: str) -> str:
    return (
        f"Flyte's local cache in {folder} cannot be used ({reason}); make it readable and writable, or delete it: "
        f"rm -rf {folder}"
    )


def _locked(folder: Path) -> str:
    return (
        f"Flyte's local cache in {folder} is locked by another process; run again once that has ended, or run with "
        "another HOME"
    )


def open_cache() -> Any:
    """Return the cache as its library opens it; only within `explained_cache`."""
    from diskcache import Cache

    return Cache(cache_folder())


def named_outputs() -> set[str]:
    """Return the local files and folders that outputs of cached steps name, of whatever project.

    Raises:
        ArtifactError: the cache cannot be used.
    """
    named: set[str] = set()
    with explained_cache(), open_cache() as cache:
        for key in cache.iterkeys():
            content = cache.get(key)
            if isinstance(content, bytes):
                for literal in LiteralMap.FromString(content).literals.values():
                    named |= {uri.removeprefix("file://").rstrip("/") for uri in _uris(literal)}
    return named


def forget_lost_outputs() -> int:
    """Drop each cached step of this project that has a deleted output; return how many were dropped.

    Raises:
        ArtifactError: the cache cannot be used.
    """
    lost = []
    with explained_cache(), open_cache() as cache:
        for key in cache.iterkeys():
            content = cache.get(key)
            if not str(key).startswith("tasks.") or not isinstance(content, bytes):
                continue
            outputs = LiteralMap.FromString(content)
            if any(is_lost(uri) for literal in outputs.literals.values() for uri in _uris(literal)):
                lost.append(key)
        for key in lost:
            cache.delete(key)
    return len(lost)


def is_lost(uri: str) -> bool:
    """Return whether `uri` names a local file or folder that does not exist."""
    path = uri.removeprefix("file://")
    return path.startswith("/") and not Path(path).exists()


def _uris(literal: Literal) -> Iterator[str]:
    kind = literal.WhichOneof("value")
    if kind == "collection":
        for item in literal.collection.literals:
            yield from _uris(item)
    elif kind == "map":
        for item in literal.map.literals.values():
            yield from _uris(item)
    elif kind == "scalar" and literal.scalar.WhichOneof("value") in ("blob", "structured_dataset"):
        yield getattr(literal.scalar, literal.scalar.WhichOneof("value")).uri
    elif kind == "scalar" and literal.scalar.WhichOneof("value") == "union":
        yield from _uris(literal.scalar.union.value)

"""Finds out why a result in Flyte's local cache cannot be used, or the whole cache.

A laptop's outputs lie under the temporary directory, which systems empty. Flyte's local cache would still name them,
and the next step would end in a traceback about a path, or take whatever has come into their place.
"""

from __future__ import annotations

import shlex
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from flyteidl.core.literals_pb2 import Literal
from flyteidl.core.literals_pb2 import LiteralMap as SavedOutputs
from flytekit.core import local_cache
from flytekit.models.literals import LiteralMap

from configs.addresses import first_line
from configs.errors import ArtifactError
from configs.printable import one_line
from tasks.files.digests import is_unchanged
from tasks.files.full_disk import is_disk_full
from tasks.files.waiting import NoAnswerError, waiting_for

LOCKED_SECONDS = 20.0
_SMALLEST_BYTES = 2**17


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
        if is_disk_full(error) or _is_full(folder):
            raise ArtifactError(
                f"{_named(folder)}: the disk is full; free some space, or set HOME to another"
            ) from None
        raise ArtifactError(_unusable(folder, first_line(error))) from None
    except (sqlite3.Error, DecodeError) as error:
        raise ArtifactError(
            f"{_named(folder)} is damaged ({type(error).__name__}); delete it, and all steps run again: "
            f"{_deleting(folder)}"
        ) from None
    except OSError as error:
        raise ArtifactError(_unusable(folder, error.strerror or type(error).__name__)) from None


def _is_full(folder: Path) -> bool:
    """Return whether its disk has no room; SQLite then speaks of an error of input and output."""
    place = next(path for path in (folder, *folder.parents) if path.exists())
    return shutil.disk_usage(place).free < _SMALLEST_BYTES


def _unusable(folder: Path, reason: str) -> str:
    return (
        f"{_named(folder)} cannot be used ({reason}); make it readable and writable, or delete it: {_deleting(folder)}"
    )


def _locked(folder: Path) -> str:
    return f"{_named(folder)} is locked by another process; run again once that has ended, or run with another HOME"


def _named(folder: Path) -> str:
    return f"Flyte's local cache in {one_line(folder)}"


def _deleting(folder: Path) -> str:
    return f"rm -rf {one_line(shlex.quote(str(folder)))}"


def check_cache() -> None:
    """Open the cache, so that one that cannot be used is found before anything runs.

    Raises:
        ArtifactError: as `explained_cache`.
    """
    with explained_cache(), open_cache() as cache:
        len(cache)


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
                for literal in SavedOutputs.FromString(content).literals.values():
                    named |= {uri.removeprefix("file://").rstrip("/") for uri in _uris(literal)}
    return named


def why_unusable(outputs: LiteralMap) -> str:
    """Return why the outputs of a cached step cannot be used, as half a sentence; empty if they can be."""
    for literal in outputs.to_flyte_idl().literals.values():
        for uri in _uris(literal):
            path = Path(uri.removeprefix("file://"))
            if not path.is_absolute():
                continue
            try:
                if not path.exists():
                    return "its result is no longer there"
                if not is_unchanged(path, uri):
                    return f"its result was changed on the disk: {path}"
            except OSError as error:
                return f"its result cannot be read: {path}: {error.strerror}"
    return ""


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

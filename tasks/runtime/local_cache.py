"""Drops the entries of Flyte's local cache that name deleted files.

A laptop's outputs lie under the temporary directory, which systems empty. Flyte's local cache would still name them,
and the next run would end in a traceback about a path. Once an entry is dropped, its step runs again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flyteidl.core.literals_pb2 import Literal, LiteralMap
from flytekit.core import local_cache


def forget_lost_outputs() -> int:
    """Drop each cached step of this project that has a deleted output; return how many were dropped."""
    from diskcache import Cache

    lost = []
    with Cache(Path(local_cache.CACHE_LOCATION).expanduser()) as cache:
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

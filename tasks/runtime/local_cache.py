"""Finds out why a result in Flyte's local cache cannot be used: files of it were deleted, or changed on the disk.

A laptop's outputs lie under the temporary directory, which systems empty. Flyte's local cache would still name them,
and the next step would end in a traceback about a path, or take whatever has come into their place.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from flyteidl.core.literals_pb2 import Literal
from flytekit.models.literals import LiteralMap

from tasks.files.digests import is_unchanged


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

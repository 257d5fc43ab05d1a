"""Cache versions: a stage's cached results are reused until its code, or the version of a pinned library, changes."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
_SHARED = ("configs/wire.py", "tasks/files/places.py", "tasks/files/streams.py", "constraints.txt")


@cache
def source_version(*folders: str) -> str:
    """Return a hash of the .py and .json files in `folders` (relative to the project), of the modules that all stages
    share, and of the pinned library versions."""
    files = [ROOT / name for name in _SHARED]
    for folder in folders:
        files += sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".json"))
    digest = hashlib.sha256()
    for file in files:
        if file.exists():
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]

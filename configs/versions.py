"""Cache versions: a stage's cached results are reused until its code, or the version of a pinned library, changes."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
_SHARED = (
    "configs/wire.py",
    "configs/wire_type.py",
    "tasks/files/places.py",
    "tasks/files/streams.py",
    "constraints.txt",
)


@cache
def source_version(*places: str) -> str:
    """Return a hash of the .py and .json files in `places` (files or folders of the project), of the modules that all
    stages share, and of the pinned library versions."""
    files = [ROOT / name for name in _SHARED]
    for place in (ROOT / name for name in places):
        inside = sorted(path for path in place.rglob("*") if path.suffix in (".py", ".json"))
        files += [place] if place.is_file() else inside
    digest = hashlib.sha256()
    for file in files:
        if file.exists():
            digest.update(file.relative_to(ROOT).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]

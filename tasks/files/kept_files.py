"""What a user has put into a run's folder, or changed there, survives the run that replaces the folder.

`run.json` lists the files of a run with their SHA-256: whatever it does not list, or lists with another hash, is the
user's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from configs.foreign_json import parse_object

RECORD = "run.json"
LOCK = ".fine-tune.lock"
REPLACED = ".fine-tune.replaced"
"""A file in the folder of a run that another one is about to replace, or has replaced."""
_NOT_LISTED = (RECORD, LOCK, REPLACED)


@dataclass(frozen=True)
class Recorded:
    """What `run.json` in a folder says: the config's identity, the names in the folder, and the hashes of all files.

    `identity` is None if no run has made the folder.
    """

    identity: str | None = None
    names: list[str] = field(default_factory=list)
    hashes: dict[str, str] = field(default_factory=dict)


def recorded(folder: Path) -> Recorded:
    """Return the record of a folder; an empty one if there is none, or none of ours."""
    try:
        record = parse_object((folder / RECORD).read_bytes())
        identity, names, hashes = record["identity"], record.get("files", []), record.get("sha256", {})
    except (OSError, ValueError, KeyError, TypeError):
        return Recorded()
    if not (isinstance(identity, str) and isinstance(names, list) and isinstance(hashes, dict)):
        return Recorded()
    return Recorded(identity, names, hashes)


def keep_and_delete(old: Path, place: Path) -> Path | None:
    """Delete the folder of a run that `place` has replaced, and keep what the run did not write.

    What lies beside the run's files goes to the same name in `place`. What has no room there, lies within a model, or
    was changed, goes to `<place>.kept`, which is then returned.
    """
    record = recorded(old)
    kept = _new_folder(place)
    if record.identity is None and any(old.iterdir()):
        old.rename(kept)
        return kept
    for path in old.iterdir():
        if path.name not in (*record.names, *_NOT_LISTED) and not _exists(place / path.name):
            path.rename(place / path.name)
    for file in list(_files_of_the_user(old, record)):
        target = kept / file.relative_to(old)
        target.parent.mkdir(parents=True, exist_ok=True)
        file.rename(target)
    for path in old.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != RECORD:
            path.unlink()
    # the record goes last: if this is interrupted, the next run knows by it what may be deleted
    shutil.rmtree(old)
    return kept if kept.exists() else None


def _files_of_the_user(old: Path, record: Recorded) -> Iterator[Path]:
    for folder, names, files in os.walk(old):
        links = [name for name in names if Path(folder, name).is_symlink()]
        for path in (Path(folder, name) for name in (*files, *links)):
            name = path.relative_to(old).as_posix()
            if name not in _NOT_LISTED and _is_of_the_user(path, name, record):
                yield path


def _is_of_the_user(path: Path, name: str, record: Recorded) -> bool:
    if not record.hashes:
        # an older version's record lists no files within a model
        return name.partition("/")[0] not in record.names
    if name not in record.hashes or path.is_symlink():
        return True
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() != record.hashes[name]


def _new_folder(place: Path) -> Path:
    for number in count(1):
        kept = place.with_name(f"{place.name}.kept{'' if number == 1 else f'-{number}'}")
        if not _exists(kept):
            return kept
    raise AssertionError


def _exists(path: Path) -> bool:
    return path.exists() or path.is_symlink()

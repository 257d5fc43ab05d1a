"""The output folder of a laptop run: claimed when the run starts, and replaced as a whole when it ends.

A run writes to `<name>.unfinished`, beside its folder, and is renamed into place at its end. So a run that fails or is
killed leaves the old folder whole, and a folder holds the files of one run. A lock that ends with its process shows
that a run is still writing.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Literal

from configs.errors import ConfigError
from configs.foreign_json import parse_object

RECORD = "run.json"
_LOCK = ".fine-tune.lock"
# file systems without locks, such as Lustre mounted without them: one run at a time is then the user's care
_NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)
IfExists = Literal["number", "replace", "stop"]


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run. `place` is its own from the end of the run on; until then the run writes to `unfinished`.

    `note` tells the user why `place` is not what the config says, or what it replaces; else it is empty.
    """

    place: Path
    unfinished: Path
    note: str
    lock: int


def claim(parent: Path, name: str, identity: str, if_exists: IfExists) -> RunFolder:
    """Claim `parent`/`name` for a run, or else a numbered folder, and create the folder that it writes to.

    `identity` tells configs apart: a finished run with the same one is replaced.

    Raises:
        ConfigError: another run holds the folder, and `if_exists` is `stop`.
        OSError: the folders cannot be written to.
    """
    parent.mkdir(parents=True, exist_ok=True)
    with _locked(parent):
        place, note = _choose(parent, name, identity, if_exists)
        unfinished = _unfinished_folder(place, identity)
        unfinished.mkdir(exist_ok=True)
        return RunFolder(place, unfinished, note, _lock(unfinished))


def finish(folder: RunFolder) -> Path:
    """Put a run's files into place, in one step, and return the place. What else a user kept there stays."""
    with _locked(folder.place.parent):
        (folder.unfinished / _LOCK).unlink(missing_ok=True)
        if folder.place.exists():
            folder.place.rename(_replaced(folder.place))
        folder.unfinished.rename(folder.place)
        _mend(folder.place)
    release(folder)
    return folder.place


def release(folder: RunFolder) -> None:
    """End the claim; the end of the process does so too."""
    os.close(folder.lock)


def _choose(parent: Path, name: str, identity: str, if_exists: IfExists) -> tuple[Path, str]:
    """Return the first folder that is free or of the same config, and what to say about it."""
    first, taken = parent / name, ""
    for number in count(1):
        place = first if number == 1 else parent / f"{name}-{number}"
        _mend(place)
        is_busy = any(_is_locked(folder) for folder in parent.glob(f"{place.name}.unfinished*"))
        if not is_busy and (not place.exists() or not any(place.iterdir()) or _recorded(place)[0] == identity):
            break
        busy, other = f"another run is writing {place}", f"{place} holds a run of another config"
        taken = taken or (busy if is_busy else other)
        if if_exists == "stop":
            fix = "wait until it has ended" if is_busy else "set output_exists to number or replace"
            raise ConfigError(f"output_exists=stop: {taken}; {'' if is_busy else 'name another with `name`, or '}{fix}")
        if if_exists == "replace" and not is_busy:
            return place, f"{other}: it is replaced when this run ends (output_exists: replace)"
    why = "" if taken.startswith("another run") else " (output_exists: number)"
    return place, f"{taken}: this run's folder is {place}{why}" if taken else ""


def _unfinished_folder(place: Path, identity: str) -> Path:
    """Return a folder to write to: not one that holds the models of a failed run with another config."""
    for number in count(1):
        folder = place.with_name(f"{place.name}.unfinished{'' if number == 1 else f'-{number}'}")
        if not folder.exists():
            break
        models = [path for path in folder.iterdir() if path.is_dir()]
        if not models or _recorded(folder)[0] == identity:
            # the models of an earlier try stay until this one has its own
            for path in folder.iterdir():
                if path not in models:
                    path.unlink()
            break
    return folder


def _mend(place: Path) -> None:
    """Do the rest of a replacement: it may have been killed at any point."""
    old = _replaced(place)
    if not old.exists():
        return
    if not place.exists():
        old.rename(place)
        return
    own = _recorded(old)[1]
    for path in old.iterdir():
        # without a record nobody knows what is the user's
        if own and path.name not in (*own, RECORD, _LOCK) and not (place / path.name).exists():
            path.rename(place / path.name)
    shutil.rmtree(old)


def _replaced(place: Path) -> Path:
    return place.with_name(f".{place.name}.replaced")


def _recorded(folder: Path) -> tuple[str | None, list[str]]:
    """Return the identity and the files of the run in a folder, by its record; (None, []) without a record of ours."""
    try:
        record = parse_object((folder / RECORD).read_bytes())
        return record["identity"], record.get("files", [])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None, []


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Let one process at a time choose, or replace, folders in `parent`."""
    lock = _open(parent / _LOCK)
    try:
        _try_to_lock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _lock(folder: Path) -> int:
    lock = _open(folder / _LOCK)
    _try_to_lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _is_locked(folder: Path) -> bool:
    path = folder / _LOCK
    if not path.exists():
        return False
    lock = _open(path)
    try:
        _try_to_lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o644)


def _try_to_lock(lock: int, how: int) -> None:
    try:
        fcntl.flock(lock, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise

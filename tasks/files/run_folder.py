"""The output folder of a laptop run: claimed when the run starts, and replaced as a whole when it ends.

A run writes to `<name>.unfinished`, beside its folder, and is renamed into place at its end. So a run that fails or is
killed leaves the old folder whole, and a folder holds the files of one run. A lock that ends with its process shows
that a run is still writing. Only folders that a run has made are ever replaced, links are not followed, and what a user
has put into a run's folder or changed there is kept (kept_files.py).
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
from configs.printable import one_line, print_line
from tasks.files.copies import is_partial
from tasks.files.exchange import exchange
from tasks.files.kept_files import LOCK, RECORD, REPLACED, keep_and_delete, recorded

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
        ConfigError: the folder is taken, and `if_exists` is `stop`; or it is no run's, and `if_exists` is `replace`.
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
        (folder.unfinished / LOCK).unlink(missing_ok=True)
        if folder.place.exists():
            # so that whoever finds it under the other name knows it for the old one
            (folder.place / REPLACED).touch()
            if exchange(folder.unfinished, folder.place):
                folder.unfinished.rename(_replaced(folder.place))
            else:
                folder.place.rename(_replaced(folder.place))
        if not folder.place.exists():
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
        if not is_busy and _is_free(place, identity):
            break
        fault, shown = _fault_of(place), one_line(place)
        busy, other = f"another run is writing {shown}", f"{shown} {fault or 'holds a run of another config'}"
        taken = taken or (busy if is_busy else other)
        if if_exists == "stop":
            fix = "name another with `name`, or set output_exists to number or replace"
            fix = "wait until it has ended" if is_busy else "choose another `name`, or move it away" if fault else fix
            raise ConfigError(f"output_exists=stop: {taken}; {fix}")
        if if_exists == "replace" and not is_busy:
            if fault:
                raise ConfigError(
                    f"output_exists=replace: {other}, and only the folder of a run is replaced; choose another `name`, "
                    "or move it away"
                )
            return place, f"{other}: it is replaced when this run ends (output_exists: replace)"
    why = "" if taken.startswith("another run") else " (output_exists: number)"
    return place, f"{taken}: this run's folder is {one_line(place)}{why}" if taken else ""


def _is_free(place: Path, identity: str) -> bool:
    """Return whether nothing lies at `place`, or an empty folder, or that of a run of the same config."""
    if place.is_symlink() or (place.exists() and not place.is_dir()):
        return False
    return not place.exists() or not any(place.iterdir()) or recorded(place).identity == identity


def _fault_of(place: Path) -> str:
    """Return why what lies at `place` is not the folder of a run; empty if it is."""
    if place.is_symlink():
        return "is a symbolic link"
    if not place.is_dir():
        return "is not a folder"
    return "" if recorded(place).identity else "holds files of no run"


def _unfinished_folder(place: Path, identity: str) -> Path:
    """Return a folder to write to: not one that holds the models of a failed run with another config."""
    for number in count(1):
        folder = place.with_name(f"{place.name}.unfinished{'' if number == 1 else f'-{number}'}")
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            continue
        if not folder.exists() or not any(folder.iterdir()):
            break
        if recorded(folder).identity is None and not (folder / LOCK).is_file():
            # no run has made it
            continue
        models = [path for path in folder.iterdir() if path.is_dir() and not path.is_symlink()]
        is_same = recorded(folder).identity == identity
        if not models or is_same:
            # the models of an earlier try stay until this one has its own
            for path in folder.iterdir():
                if is_partial(path) and path in models:
                    shutil.rmtree(path)
                # until the run has written its own record, that of the earlier try says whose the models are
                elif path not in models and not (is_same and path.name == RECORD and not path.is_symlink()):
                    path.unlink()
            break
    return folder


def _mend(place: Path) -> None:
    """Do the rest of a replacement: it may have been killed at any point."""
    old = _replaced(place)
    if old.is_symlink():
        old.unlink()
    for folder in place.parent.glob(f"{place.name}.unfinished*"):
        if (folder / REPLACED).exists() and not folder.is_symlink() and not old.exists():
            folder.rename(old)
    if not old.exists():
        return
    if not place.exists():
        old.rename(place)
        return
    kept = keep_and_delete(old, place)
    if kept is not None:
        print_line(f"output: files in {place} that no run wrote are now in {kept}")


def _replaced(place: Path) -> Path:
    return place.with_name(f".{place.name}.replaced")


@contextmanager
def _locked(parent: Path) -> Iterator[None]:
    """Let one process at a time choose, or replace, folders in `parent`."""
    lock = _open(parent / LOCK)
    try:
        _try_to_lock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _lock(folder: Path) -> int:
    lock = _open(folder / LOCK)
    _try_to_lock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return lock


def _is_locked(folder: Path) -> bool:
    path = folder / LOCK
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
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)


def _try_to_lock(lock: int, how: int) -> None:
    try:
        fcntl.flock(lock, how)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise

"""Leaves nothing of a laptop's run under the temporary folder but its checkpoints, and what Flyte's local cache names.

Flyte makes folders there that it never deletes, in every process, and so do torch's launcher and trackers. So all of a
run goes to a folder of its own, `fine-tune-run-<process>`, which is deleted when the run ends. A file in it is locked
while the run lives: the next run deletes what a killed one has left. Flyte's folders of the run's first process are
older than the run; of these, only outputs that the cache names stay.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from filelock import FileLock, Timeout

from configs.foreign_json import JsonFault, parse_object

CHECKPOINTS_VARIABLE = "FINE_TUNE_CHECKPOINTS"
KEEP_VARIABLE = "FINE_TUNE_KEEP"
"""With it, the temporary folder of a run stays until the next run, for a look at its Decks."""
_PREFIX = "fine-tune-run-"
_LOCK, _RECORD = "lock", "folders.json"
# what flytekit and this project call their folders
_OWN_NAMES = ("flyte", "fine-tune-")


class _Own(NamedTuple):
    folder: Path
    lock: FileLock
    variables: dict[str, str | None]
    """What the variables were before the run."""


_is_allowed = False
_own: _Own | None = None


def allow() -> None:
    """Let `begin` do its work: this process is a command, which ends when its run does."""
    global _is_allowed
    _is_allowed = True


def begin() -> None:
    """Give the run of this command its own temporary folder, and delete what dead runs have left; once a process."""
    global _own
    if _own is not None or not _is_allowed:
        return
    # tempfile would choose another folder once $TMPDIR is full
    parent = Path(os.environ.get("TMPDIR") or tempfile.gettempdir())
    for left in parent.glob(f"{_PREFIX}*"):
        # another run may delete it at the same time
        with suppress(FileNotFoundError):
            _delete_if_dead(left)
    folder = None
    try:
        folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=parent))
        lock = FileLock(folder / _LOCK)
        lock.acquire()
        (folder / _RECORD).write_text(json.dumps({"cache": _cache(), "folders": _flyte_folders()}), encoding="utf-8")
    except OSError:
        # the checks of the plan name a full or unwritable disk
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        return
    values = {CHECKPOINTS_VARIABLE: str(parent / "fine-tune-checkpoints"), "TMPDIR": str(folder)}
    _own = _Own(folder, lock, {name: os.environ.get(name) for name in values})
    os.environ |= values
    tempfile.tempdir = str(folder)


def belongs(folder: Path) -> None:
    """Have a folder elsewhere, such as in memory, deleted with the rest of the run, if its process is killed."""
    if _own is not None:
        record = _read(_own.folder)
        record["folders"].append(str(folder))
        (_own.folder / _RECORD).write_text(json.dumps(record), encoding="utf-8")


def clean() -> None:
    """Delete all that the run of this command has left, if `begin` was called, and $FINE_TUNE_KEEP is not set."""
    global _own
    if os.environ.get(KEEP_VARIABLE):
        return
    if _own is None:
        # a command that was refused before its run began
        if _is_allowed:
            _delete_unnamed(_flyte_folders())
        return
    own, _own = _own, None
    for name, value in own.variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    tempfile.tempdir = None
    _delete(own.folder)
    own.lock.release()


def _delete_if_dead(folder: Path) -> None:
    """Delete what a run has left whose process is gone, with its lock; of another user's run, nothing."""
    # between the two a living run has made its folder, and not yet locked it
    if folder.is_symlink() or folder.stat().st_uid != os.geteuid() or not (folder / _RECORD).is_file():
        return
    lock = FileLock(folder / _LOCK)
    with suppress(Timeout, OSError), lock.acquire(blocking=False):
        _delete(folder)


def _delete(folder: Path) -> None:
    """Delete the folder of a run, and of Flyte's folders what the cache does not name; kept ones stay on record."""
    record = _read(folder)
    if record["cache"] != _cache():
        # of a user with another cache, which may name what is there
        return
    named = _named_outputs()
    folders = [path for path in record["folders"] if _is_own(Path(path), folder.parent)]
    kept = [path for path in folders if named is None or _prune(Path(path), named)]
    if not kept:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for path in folder.iterdir():
        if path.name not in (_LOCK, _RECORD):
            _remove(path)
    (folder / _RECORD).write_text(json.dumps({**record, "folders": kept}), encoding="utf-8")


def _delete_unnamed(folders: list[str]) -> None:
    named = _named_outputs()
    for path in map(Path, folders):
        if named is not None and path.is_dir():
            _prune(path, named)


def _read(folder: Path) -> dict[str, Any]:
    """Return what a run noted in its folder; a note that a full disk cut short names no other folders."""
    try:
        record = parse_object((folder / _RECORD).read_bytes())
    except (OSError, JsonFault):
        record = {}
    folders = record.get("folders")
    names = [name for name in folders if isinstance(name, str)] if isinstance(folders, list) else []
    return {"cache": record.get("cache", _cache()), "folders": names}


def _is_own(path: Path, parent: Path) -> bool:
    """Return whether a folder may be one that a run of this user left: whoever can write a record there cannot have
    others deleted."""
    is_known = path.parent in (parent, Path("/dev/shm")) and path.name.startswith(_OWN_NAMES)
    return is_known and path.is_dir() and not path.is_symlink() and path.stat().st_uid == os.geteuid()


def _prune(path: Path, named: set[str]) -> bool:
    """Delete `path` but for the files and folders in `named`, and return whether it holds one of these."""
    if str(path) in named:
        return True
    if not any(name.startswith(f"{path}/") for name in named):
        _remove(path)
        return False
    # all parts are to be pruned, not only up to the first that stays
    return sum(_prune(part, named) for part in path.iterdir()) > 0


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _flyte_folders() -> list[str]:
    """Return the folders that flytekit made in this process when it was imported."""
    from flytekit.configuration import Config
    from flytekit.core.data_persistence import flyte_tmp_dir

    return [str(Config.auto().local_sandbox_path), str(flyte_tmp_dir)]


def _cache() -> str:
    from tasks.runtime.local_cache import cache_folder

    return str(cache_folder())


def _named_outputs() -> set[str] | None:
    """Return the local files and folders that cached outputs name; None if the cache cannot be read."""
    from configs.errors import ArtifactError
    from tasks.runtime.local_cache import named_outputs

    try:
        return named_outputs()
    except ArtifactError:
        return None

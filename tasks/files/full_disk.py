"""Recognises a disk that is full, a quota that is used up and a file that is too large, and says which disk it is."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from configs.errors import ArtifactError, FineTuneError
from configs.printable import one_line

_FULL = {errno.ENOSPC: "the disk is full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "a file is too large"}
# libraries in C++ and Rust, SQLite and Arrow say so only in the message; the last is all that torch's writer reports
_WORDS = {
    "no space left on device": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "database or disk is full": errno.ENOSPC,
    ". unexpected pos ": errno.ENOSPC,
}


@contextmanager
def full_disks_named(folder: Path) -> Iterator[None]:
    """Within the block, which writes to `folder`, raise an error of a full disk as one that names the disk.

    Raises:
        ArtifactError: as `full_disk_error` returns it.
    """
    try:
        yield
    except OSError as error:
        full = full_disk_error(error, written_to=[folder])
        if full is None:
            raise
        raise full from error


def is_disk_full(error: BaseException) -> bool:
    """Return whether a disk was full, a quota used up, or a file larger than the system allows."""
    return _number(error) is not None


def full_disk_error(error: BaseException, fix: str = "", written_to: Sequence[Path] = ()) -> ArtifactError | None:
    """Return the error to show for one of a full disk, or for one that was raised from it; None for any other.

    The message names the folder that the error names, or else the fullest one of `written_to` and of those that every
    run writes to; it ends with `fix`, if it is given. A deliberate error is its own explanation.
    """
    for cause in causes(error):
        if isinstance(cause, FineTuneError):
            return None
        number = _number(cause)
        if number is not None:
            folder = _folder(cause, written_to)
            advice = fix or "free some space there, or set output_directory or TMPDIR to a folder on another disk"
            if number == errno.EFBIG:
                advice = "raise the limit (`ulimit -f`), or use a file system that takes larger files"
            what = _FULL[number]
            return ArtifactError(f"{one_line(folder)}: {what}{_disk(folder)}\n{advice}")
    return None


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error`, then the error that it was raised from, and so on."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__


def _number(error: BaseException) -> int | None:
    if isinstance(error, OSError) and error.errno in _FULL:
        return error.errno
    text = str(error).lower()
    return next((number for words, number in _WORDS.items() if words in text), None)


def _folder(error: BaseException, written_to: Sequence[Path]) -> Path:
    name = getattr(error, "filename2", None) or getattr(error, "filename", None)
    if isinstance(name, str | bytes):
        return Path(os.fsdecode(name)).parent
    folders = [*written_to, Path(tempfile.gettempdir()), Path.cwd(), Path.home()]
    return min(filter(Path.exists, folders), key=lambda folder: shutil.disk_usage(folder).free)


def _disk(folder: Path) -> str:
    """Return where the disk of a folder is mounted, and its size; empty where the folder is gone."""
    place = Path(os.path.realpath(folder))
    if not place.exists():
        return ""
    usage = shutil.disk_usage(place)
    while not place.is_mount():
        place = place.parent
    return f" (mounted at {one_line(place)}, {usage.total / 2**30:,.2f} GiB)"

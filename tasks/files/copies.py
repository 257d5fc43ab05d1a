"""Copies of models, which share no bytes with what they were made from: a change of one never changes the other."""

from __future__ import annotations

import fcntl
import shutil
from pathlib import Path

from tasks.files.exchange import exchange
from tasks.files.full_disk import full_disks_named

_PARTIAL = ".partial"
# Linux's FICLONE
_CLONE = 0x40049409


def copy_folder(source: Path, target: Path) -> Path:
    """Copy the folder of a model in place of what lies at `target`, and return it.

    A file system that can share blocks until one of two files is changed does so, which takes neither time nor space.
    A copy that was interrupted leaves what was at `target`, and a folder for which `is_partial` is true.

    Raises:
        ArtifactError: the disk is full.
    """
    partial = target.with_name(f".{target.name}{_PARTIAL}")
    if partial.exists():
        shutil.rmtree(partial)
    with full_disks_named(target.parent):
        shutil.copytree(source, partial, copy_function=_clone_or_copy)
    if target.exists() and not exchange(partial, target):
        shutil.rmtree(target)
    if target.exists():
        shutil.rmtree(partial)
    else:
        partial.rename(target)
    return target


def is_partial(path: Path) -> bool:
    """Return whether a copy that was interrupted has left this."""
    return path.name.startswith(".") and path.name.endswith(_PARTIAL)


def _clone_or_copy(source: str, target: str) -> None:
    try:
        with open(source, "rb") as read, open(target, "wb") as written:
            fcntl.ioctl(written, _CLONE, read.fileno())
    except OSError:
        # another disk, or a file system that cannot
        shutil.copyfile(source, target)

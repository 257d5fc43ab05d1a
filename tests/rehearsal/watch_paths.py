"""Loaded by every interpreter of a rehearsed pod: notes what it opens where a pod of a cluster would find nothing.

On a cluster each pod has a disk of its own. Here all are folders of one, so that a path of another pod, or of the
developer's checkout, would be found, and must be seen.
"""

import os
import sys

_own = os.environ.get("REHEARSAL_MACHINE", "")
_foreign = [path for path in os.environ.get("REHEARSAL_FOREIGN", "").split(os.pathsep) if path]
_allowed = [path for path in os.environ.get("REHEARSAL_ALLOWED", "").split(os.pathsep) if path]
_notes = f"{_own}/foreign-paths.txt"
_seen = set()


def _watch(event, arguments):
    if event not in ("open", "os.listdir", "os.scandir", "os.chdir") or not arguments:
        return
    path = arguments[0]
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, (str, os.PathLike)):
        return
    path = os.path.abspath(os.fspath(path))  # noqa: PTH100
    if path in _seen:
        return
    _seen.add(path)
    if any(_within(path, place) for place in _foreign) and not any(_within(path, p) for p in (_own, *_allowed)):
        with open(_notes, "a", encoding="utf-8") as notes:
            notes.write(path + "\n")


def _within(path, place):
    return path == place or path.startswith(place + os.sep)


if _own:
    sys.addaudithook(_watch)

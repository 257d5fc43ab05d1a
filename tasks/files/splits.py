"""Which files of a folder are for training and which are held out, as their names say.

Data sets are stored with their splits in the names: `data/train-00000-of-00001.parquet`, `test.jsonl`, or folders
`train` and `validation`. To train on the files named test would inflate every score.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Literal, NamedTuple

from tasks.files.places import DataFile

Split = Literal["train", "test"]
Role = Literal["auto", "train", "test"]

_SPLITS: dict[str, Split] = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation", "valid", "validation", "val", "dev"), "test"),
}
_WORD = re.compile("[a-z]+")
_SHOWN_FILES = 3


class _Named(NamedTuple):
    """The split in a file's name. It is `certain` if the name, or its folder, says nothing else but numbers."""

    split: Split | None
    certain: bool


def file_roles(files: Sequence[DataFile]) -> list[Role]:
    """Return the role of each file of a source whose role the config leaves open.

    All roles are `auto` unless some files are for training and others are held out. If a file is certainly held out
    (`test.jsonl`, `test-00000-of-00001.parquet`, `test/rows.jsonl`), files that name no split are for training. A split
    that is one word of a longer name (`gsm8k_test.jsonl`) counts if another file is named as its counterpart.
    """
    named = [_named(file.name) for file in files]
    has_train = any(name.split == "train" for name in named)
    is_held_out = [name.split == "test" and (name.certain or has_train) for name in named]
    if not any(is_held_out) or all(is_held_out):
        return ["auto"] * len(files)
    return ["test" if held_out else "train" for held_out in is_held_out]


def names_held_out(files: Sequence[DataFile]) -> set[str]:
    """Return the names of the files of a source that `file_roles` holds out."""
    return {file.name for file, role in zip(files, file_roles(files), strict=True) if role == "test"}


def held_out_warning(source: str, names: Sequence[str]) -> str:
    """Return a warning if files of the role `auto` are named as held out; `names` are those of all such files."""
    held_out = [name for name in names if _named(name).split == "test"]
    if not held_out:
        return ""
    return (
        f"{source}: {shown_files(held_out)} named as held out, but these rows may be trained on; give the source "
        "`role: test`, or `role: train` if that is meant"
    )


def scored_training_warning(source: str, names: Sequence[str]) -> str:
    """Return a warning if an evaluation set has files named train beside held-out ones; `names` are of all files."""
    roles = file_roles([DataFile(name, name) for name in names])
    training = [name for name, role in zip(names, roles, strict=True) if role == "train"]
    if not training:
        return ""
    return (
        f"{source}: {shown_files(training)} scored too, beside files named as held out; name the held-out files alone"
    )


def shown_files(names: Sequence[str]) -> str:
    """Return up to three names of files for a message."""
    more = f" and {len(names) - _SHOWN_FILES} more" if len(names) > _SHOWN_FILES else ""
    return ", ".join(names[:_SHOWN_FILES]) + more


def _named(name: str) -> _Named:
    """Return the split in the name of a file below its folder: in its own name first, then in its nearest folder's."""
    path = PurePosixPath(name.lower())
    for part in [path.name.partition(".")[0], *reversed(path.parts[:-1])]:
        words = [word for word in _WORD.findall(part) if word != "of"]
        splits = {_SPLITS[word] for word in words if word in _SPLITS}
        if len(splits) == 1:
            return _Named(splits.pop(), certain=len(words) == 1)
        if splits:
            # a name with both words, such as train_test.jsonl, says nothing
            return _Named(None, certain=False)
    return _Named(None, certain=False)

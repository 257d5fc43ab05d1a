"""Files of a base model that go with every model made from it: its licence, its notices, its preprocessors."""

from __future__ import annotations

import shutil
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from tasks.files.front_matter import split_card
from tasks.models.record import PARITY_FILE, RECORD_FILE

_NAMES = ("LICENSE*", "LICENCE*", "NOTICE*", "COPYING*", "USE_POLICY*", "*processor_config.json")
_STATED = ("license", "license_name", "license_link")


def copy_companions(base: Path, output: Path) -> list[str]:
    """Copy the files that go with a model from the folder of its base, where `output` has none; return their names."""
    copied = []
    for path in sorted(base.iterdir()):
        is_wanted = path.is_file() and any(fnmatch(path.name, pattern) for pattern in _NAMES)
        if is_wanted and not (output / path.name).exists():
            shutil.copyfile(path, output / path.name)
            copied.append(path.name)
    return copied


def copy_record(model: Path, output: Path) -> None:
    """Copy the records of a training, and the files that go with a model, to a copy made from it."""
    copy_companions(model, output)
    for name in (RECORD_FILE, PARITY_FILE):
        if (model / name).is_file():
            shutil.copyfile(model / name, output / name)


def stated_license(directory: Path) -> dict[str, Any]:
    """Return what the card of a base model says of its licence: `license`, `license_name`, `license_link`."""
    card = directory / "README.md"
    stated, _ = split_card(card.read_text(encoding="utf-8", errors="replace")) if card.is_file() else ({}, "")
    return {key: stated[key] for key in _STATED if stated.get(key)}

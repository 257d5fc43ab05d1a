"""A preset with the few settings that people change first: the short form's config."""

from __future__ import annotations

import json
import re
import sys
from enum import Enum
from itertools import pairwise
from pathlib import Path
from typing import Any

from configs.errors import ConfigError
from configs.load import PRESETS, is_alignment, read_mapping
from configs.printable import one_line
from configs.schema import FineTuneConfig

_HUB_ID = re.compile(r"[\w-][\w.-]*/[\w.-]+")
_ENDINGS = (".jsonl", ".ndjson", ".jsonlines", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz", ".zst")

Preset = Enum(  # type: ignore[misc]
    "Preset",
    {path.stem: path.stem for path in sorted(PRESETS.glob("*.yaml")) if not is_alignment(path)},
    module=__name__,
)
"""The presets of `fine_tune`, by the names of their files."""


def quick_config(
    preset: str,
    model: str = "",
    data: str = "",
    prompt_column: str = "",
    completion_column: str = "",
    epochs: float = 0.0,
    learning_rate: float = 0.0,
    repository: str = "",
    name: str = "",
) -> FineTuneConfig:
    """Return the preset's config with these settings; an empty text or a 0 leaves the preset's own.

    `data` is a file, glob, directory or address, an embedded data set, or a hub data set: `owner/name`, or
    `owner/name:subset`. It replaces all rows of the preset: sources, evaluation sets, contamination sets, and the
    column that groups rows. Blanks around a text are not part of it.

    Raises:
        ConfigError: a setting is refused; the message names it by its path in the config.
    """
    config = read_mapping(PRESETS / f"{preset}.yaml")
    if name.strip():
        config["name"] = name.strip()
    if model.strip():
        # a revision is that of the preset's own model
        kept = {key: value for key, value in config["model"].items() if key != "revision"}
        config["model"] = {**kept, "name": model.strip()}
    if data.strip():
        replaced = ("sources", "evaluation", "contamination", "group_by")
        kept = {key: value for key, value in config["data"].items() if key not in replaced}
        config["data"] = {**kept, "sources": [place_of_rows(data.strip())]}
    columns = {"prompt": prompt_column.strip(), "completion": completion_column.strip()}
    named = {key: column for key, column in columns.items() if column}
    for source in config["data"]["sources"] if named else []:
        source["columns"] = {**source.get("columns", {}), **named}
    train: dict[str, Any] = config.setdefault("train", {})
    if epochs:
        # with a number of steps, epochs would not be read
        train.pop("max_steps", None)
        train["epochs"] = epochs
    if learning_rate:
        train["learning_rate"] = learning_rate
    if repository.strip():
        config.setdefault("push_to_hub", {})["repository"] = repository.strip()
    return FineTuneConfig.model_validate_json(json.dumps(config))


def place_of_rows(data: str) -> dict[str, Any]:
    """Return `data` as a source: a hub data set, with its subset after a colon, or else a path."""
    hub = data.removeprefix("https://huggingface.co/datasets/").rstrip("/")
    owner_and_name, _, subset = hub.partition(":")
    is_file = owner_and_name.endswith(_ENDINGS) or Path(data).exists()
    if not _HUB_ID.fullmatch(owner_and_name) or is_file:
        return {"path": data}
    return {"hub": owner_and_name, **({"name": subset} if subset else {})}


def check_quick_arguments(arguments: list[str] | None = None) -> None:
    """Check the command line of `pyflyte run --remote workflows/quick.py`, before anything is registered.

    The short form's inputs are texts, which pyflyte does not upload.

    Raises:
        ConfigError: `--data` or `--model` names a place on this machine.
    """
    words = list(sys.argv if arguments is None else arguments)
    if not words or Path(words[0]).name != "pyflyte" or "--remote" not in words or "quick" not in words:
        return
    pairs = [word.partition("=")[::2] for word in words if "=" in word]
    for option, place in [*pairwise(words), *pairs]:
        if option in ("--data", "--model") and Path(place).exists():
            raise ConfigError(
                f"{option} {one_line(place)} is on this machine, and the short form uploads nothing\n"
                "give an address or a hub id, or run fine_tune with --config, which uploads what the config names"
            )

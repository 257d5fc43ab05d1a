"""A preset with the few settings that people change first: the short form's config."""

from __future__ import annotations

import json
import re
from enum import Enum
from pathlib import Path
from typing import Any

from configs.load import PRESETS, is_alignment, read_mapping
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
) -> FineTuneConfig:
    """Return the preset's config with these settings; an empty text or a 0 leaves the preset's own.

    `data` is a file, glob, directory or address, an embedded data set, or a hub data set, `owner/name`. It replaces all
    rows of the preset: sources, evaluation sets, contamination sets, and the column that groups rows.

    Raises:
        ConfigError: a setting is refused; the message names it by its path in the config.
    """
    config = read_mapping(PRESETS / f"{preset}.yaml")
    if model:
        # a revision is that of the preset's own model
        kept = {name: value for name, value in config["model"].items() if name != "revision"}
        config["model"] = {**kept, "name": model}
    if data:
        place = {"hub": data} if is_hub_id(data) else {"path": data}
        replaced = ("sources", "evaluation", "contamination", "group_by")
        kept = {name: value for name, value in config["data"].items() if name not in replaced}
        config["data"] = {**kept, "sources": [place]}
    columns = {"prompt": prompt_column, "completion": completion_column}
    named = {name: column for name, column in columns.items() if column}
    for source in config["data"]["sources"] if named else []:
        source["columns"] = {**source.get("columns", {}), **named}
    train: dict[str, Any] = config.setdefault("train", {})
    if epochs:
        # with a number of steps, epochs would not be read
        train.pop("max_steps", None)
        train["epochs"] = epochs
    if learning_rate:
        train["learning_rate"] = learning_rate
    if repository:
        config.setdefault("push_to_hub", {})["repository"] = repository
    return FineTuneConfig.model_validate_json(json.dumps(config))


def is_hub_id(data: str) -> bool:
    """Return whether `data` names a hub data set, and neither a file's name nor a path that is there."""
    return bool(_HUB_ID.fullmatch(data)) and not data.endswith(_ENDINGS) and not Path(data).exists()

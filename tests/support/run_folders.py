"""Folders of finished runs, from plain lists of values: what a laptop's run leaves for the commands that read it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.schema import FineTuneConfig
from tasks.files.run_record import public_settings
from tasks.gate.compare import Rated, Run
from tasks.gate.decide import decide, write_joined

CONFIG: dict[str, Any] = {"model": {"name": "me/base"}, "data": {"sources": [{"path": "rows.jsonl"}]}}


def run_folder(folder: Path, models: Mapping[str, Rated], **sections: Any) -> Path:
    """Write metrics.json, rows.parquet and run.json of a run with these models into `folder`, and return it."""
    folder.mkdir(parents=True)
    config = FineTuneConfig.model_validate({**CONFIG, "name": folder.name, **sections})
    verdict = decide(Run(config, models), [])
    (folder / "metrics.json").write_text(json.dumps({"name": config.name, "verdict": verdict.model_dump()}))
    write_joined(models, folder / "rows.parquet")
    record = {"config": public_settings(config), "base_model": {"name": "me/base", "revision": "r"}, "data": ["d"]}
    (folder / "run.json").write_text(json.dumps(record))
    return folder

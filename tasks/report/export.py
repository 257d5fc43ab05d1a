"""Put what a run made where its user looks for it: models and quarantine beside the report, on a laptop."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pandas as pd


def export_models(models: Mapping[str, Path], directory: Path) -> list[Path]:
    """Make `directory`/<name> for each model, replacing what an earlier run left there; return the folders.

    Weights are hard links where the file system allows it, so that gigabytes are neither copied nor kept twice.
    """
    folders = []
    for name, model in models.items():
        folder = directory / name
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(model, folder, copy_function=_link_or_copy)
        folders.append(folder)
    return folders


def export_quarantine(quarantine: pd.DataFrame, directory: Path) -> Path | None:
    """Write the failure cases to `quarantine.jsonl`, one on each line; nothing, and None, when there are none."""
    path = directory / "quarantine.jsonl"
    path.unlink(missing_ok=True)
    if quarantine.empty:
        return None
    quarantine.to_json(path, orient="records", lines=True, force_ascii=False)
    return path


def export_rows(rows: pd.DataFrame, path: Path) -> None:
    """Write canonical rows as JSON Lines; columns that no row uses are left out."""
    used = [column for column in rows.columns if (rows[column] != "").any()]
    rows[used].to_json(path, orient="records", lines=True, force_ascii=False)


def _link_or_copy(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        try:
            os.link(os.path.realpath(source), target)
            return
        except OSError:
            # another disk, or a file system without links
            pass
    shutil.copyfile(source, target)

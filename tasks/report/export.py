"""Copies of a laptop run's results, beside its report: models, rows, quarantine."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

import pyarrow.parquet as pq

_BATCH_ROWS = 5000


def export_models(models: Mapping[str, Path], directory: Path) -> list[Path]:
    """Copy each model to `directory`/<name>, in place of an earlier run's; return the folders.

    Weights become hard links where the file system allows that, which takes neither time nor space.
    """
    folders = []
    for name, model in models.items():
        folder = directory / name
        if folder.exists():
            shutil.rmtree(folder)
        shutil.copytree(model, folder, copy_function=_link_or_copy)
        folders.append(folder)
    return folders


def export_quarantine(quarantine: Path, directory: Path) -> Path | None:
    """Write the failure cases to `quarantine.jsonl`, one a line, and return its path; None where there are none."""
    path = directory / "quarantine.jsonl"
    path.unlink(missing_ok=True)
    if not pq.read_metadata(quarantine).num_rows:
        return None
    export_rows(quarantine, path)
    return path


def export_rows(table: Path, path: Path) -> None:
    """Write a Parquet file of rows as JSON Lines, batch by batch, without columns whose text is empty."""
    with pq.ParquetFile(table) as file, path.open("w", encoding="utf-8") as lines:
        for batch in file.iter_batches(batch_size=_BATCH_ROWS):
            for row in batch.to_pylist():
                lines.write(json.dumps({k: v for k, v in row.items() if v != ""}, ensure_ascii=False) + "\n")


def _link_or_copy(source: str, target: str) -> None:
    if source.endswith(".safetensors"):
        try:
            os.link(os.path.realpath(source), target)
            return
        except OSError:
            # another disk, or a file system without links
            pass
    shutil.copyfile(source, target)

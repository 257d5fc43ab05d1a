"""Copies of a laptop run's rows, beside its report: those of the data, the quarantine, and the scored ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq

_BATCH_ROWS = 5000


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


def copy_table(table: Path, path: Path) -> None:
    """Copy the Parquet table of scored rows; the cache keeps its own."""
    shutil.copyfile(table, path)

"""Runs the data stage on one machine for tests, and returns its tables as data frames."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from configs.schema import DataConfig
from configs.wire import DataReport, Shard
from tasks.get_data.fingerprints import fingerprints
from tasks.get_data.merge import merge_shards
from tasks.get_data.scan import scan_shard
from tasks.get_data.split import choose_test_rows
from tasks.plan.resolve.data import resolve_data


@dataclass
class LoadedData:
    """The tables and the report of a data stage."""

    train: pd.DataFrame
    test: pd.DataFrame
    quarantine: pd.DataFrame
    report: DataReport


def load_data(config: DataConfig, token: str | None = None) -> LoadedData:
    """Resolve, read, check, deduplicate and split the rows of `config`; return the tables and the report."""
    resolved = resolve_data(config, token)
    with tempfile.TemporaryDirectory() as folder:
        report = write_data(config, resolved.contamination, resolved.shards, token, Path(folder))
        names = ("train", "test", "quarantine")
        train, test, quarantine = (pd.read_parquet(Path(folder) / f"{name}.parquet") for name in names)
    return LoadedData(train, test, quarantine, report)


def write_data(
    config: DataConfig, contamination: list[str], shards: Sequence[Shard], token: str | None, directory: Path
) -> DataReport:
    """Write the tables of the stage to `directory`, shard after shard, as the Flyte tasks do on several machines."""
    folders = []
    for number, shard in enumerate(shards):
        folders.append(directory / f"shard-{number}")
        folders[-1].mkdir(parents=True)
        scan_shard(config, shard, contamination, token, folders[-1])
    return merge_shards(config, folders, directory)


def split_rows(rows: pd.DataFrame, test_fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split canonical rows that have a column `group`; return (train, test)."""
    digests = fingerprints(
        rows.assign(**dict.fromkeys(("rejected", "label", "tools", "answer", "rejected_answer"), "")),
        list(rows.group),
        seed,
    )
    everywhere = np.ones(len(rows), dtype=bool)
    is_test = choose_test_rows(digests["question"], digests["group"], everywhere, test_fraction)
    return rows[~is_test], rows[is_test]

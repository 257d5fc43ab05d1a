"""The whole stage on one machine, shard after shard: what the Flyte tasks do on several, with the same result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from configs.schema import DataConfig
from configs.wire import DataReport, Shard
from tasks.get_data.merge import merge_shards
from tasks.get_data.scan import scan_shard


def load_data(
    config: DataConfig, contamination: list[str], shards: Sequence[Shard], token: str | None, directory: Path
) -> DataReport:
    """Write `train.parquet`, `test.parquet` and `quarantine.parquet` to `directory`; return the counts.

    `contamination` holds the revisions of `config.contamination`; `shards` are those of the sources and of the
    evaluation sets. What the shards leave for the merge stays in `directory`, one folder each.

    Raises:
        InvalidRowsError: more invalid rows than `config.max_invalid_rows`.
        DataError: unreadable sources, unknown columns, or fewer than 10 valid rows.
        HubError: a hub data set that cannot be loaded.
    """
    directories = []
    for number, shard in enumerate(shards):
        directories.append(directory / f"shard-{number}")
        directories[-1].mkdir(parents=True)
        scan_shard(config, shard, contamination, token, directories[-1])
    return merge_shards(config, directories, directory)

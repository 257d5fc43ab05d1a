"""The valid rows of all shards as one table: fingerprints in memory, texts read from disk by position."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from configs.schema import DataConfig
from tasks.get_data.fingerprints import FINGERPRINTS
from tasks.get_data.hashed_texts import Digests
from tasks.get_data.shard_files import ShardReader
from tasks.rows.checks import whole_texts

Positions = NDArray[np.int64]
Mask = NDArray[np.bool_]


class AllRows:
    """The valid rows of all shards. Positions count through the shards: first sources, then evaluation sets.

    `roles` holds the role of each row's source, or of its file: `auto`, `train`, `test` or `evaluation`.
    `sources` holds the index of each row's source in `data.sources` followed by `data.evaluation`.
    """

    def __init__(self, config: DataConfig, directories: Sequence[Path]) -> None:
        self.shards = [ShardReader(directory) for directory in directories]
        self.starts = np.concatenate([[0], np.cumsum([len(shard) for shard in self.shards], dtype=np.int64)])
        parts = [shard.digests() for shard in self.shards]
        self.digests: dict[str, Digests] = {
            name: np.concatenate([part[name] for part in parts]) for name in FINGERPRINTS
        }
        shard_sources = [source_index(config, shard.summary) for shard in self.shards]
        roles = [
            "evaluation" if shard.summary["section"] == "evaluation" else str(shard.summary["role"])
            for shard in self.shards
        ]
        sizes = np.diff(self.starts)
        self.sources = np.repeat(np.array(shard_sources, dtype=np.int64), sizes)
        self.roles = np.repeat(np.array(roles), sizes)

    def __len__(self) -> int:
        return int(self.starts[-1])

    def row(self, position: int) -> dict[str, Any]:
        """Return the columns of one row."""
        shard = int(np.searchsorted(self.starts, position, side="right")) - 1
        return self.shards[shard].row(position - int(self.starts[shard]))

    def row_ids(self, positions: Iterable[int]) -> list[str]:
        """Return the ids of the rows at `positions`."""
        return [str(self.row(position)["row_id"]) for position in positions]

    def text(self, position: int) -> str:
        """Return the whole text of a row, followed by its label."""
        row = pd.DataFrame([self.row(position)], dtype=object)
        return str((whole_texts(row) + row.label).iloc[0])

    def signatures(self, positions: Positions) -> NDArray[np.uint32]:
        """Return the MinHash signatures of the rows at `positions`, [positions, permutations]."""
        shard_numbers = np.searchsorted(self.starts, positions, side="right") - 1
        result = np.empty((len(positions), 0), dtype=np.uint32)
        for number, shard in enumerate(self.shards):
            in_shard = np.flatnonzero(shard_numbers == number)
            if len(in_shard):
                values = shard.signatures(positions[in_shard] - self.starts[number])
                if not result.shape[1]:
                    result = np.empty((len(positions), values.shape[1]), dtype=np.uint32)
                result[in_shard] = values
        return result

    def batches(self) -> Iterator[tuple[int, Any]]:
        """Yield (position of the first row, Arrow batch) for all rows in order."""
        for start, shard in zip(self.starts.tolist(), self.shards, strict=False):
            for first, batch in shard.batches():
                yield start + first, batch


def source_index(config: DataConfig, summary: dict[str, Any]) -> int:
    """Return the index of a shard's source in `data.sources` followed by `data.evaluation`."""
    return int(summary["number"]) + (len(config.sources) if summary["section"] == "evaluation" else 0)

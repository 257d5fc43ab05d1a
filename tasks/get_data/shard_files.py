"""Write and read the files of a shard: its valid rows, their fingerprints, and all failure cases, for the merge.

Rows are in an uncompressed Arrow file, which is memory-mapped and read by position. Fingerprints are in arrays of
16 bytes a row, and the signatures for the search of near duplicates in a file of their own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from tasks.get_data.dedup import NUM_PERM
from tasks.get_data.fingerprints import FINGERPRINTS
from tasks.get_data.hashed_texts import Digests
from tasks.rows.formats import CANONICAL_COLUMNS

_ROWS = pa.schema(
    [("read_index", pa.int64()), ("file", pa.string()), ("row", pa.int64())]
    + [(name, pa.string()) for name in CANONICAL_COLUMNS]
)
_TEXTS = ("file", "check", "column", "reason", "value")
FAILURES = pa.schema(
    [("read_index", pa.int64()), ("position", pa.int64()), ("row", pa.int64())]
    + [(name, pa.string()) for name in _TEXTS]
)
"""`read_index` counts all rows of the shard, and `position` its valid rows: it is -1 for an invalid row."""


class ShardWriter:
    """Writes the files of one shard, batch by batch."""

    def __init__(self, directory: Path, with_signatures: bool) -> None:
        self._directory = directory
        self._rows = pa.ipc.new_file(directory / "rows.arrow", _ROWS)
        self._failures = pa.ipc.new_file(directory / "failures.arrow", FAILURES)
        self._digests: dict[str, list[Digests]] = {name: [] for name in FINGERPRINTS}
        self._signatures = (directory / "signatures.bin").open("wb") if with_signatures else None
        self.num_rows = 0

    def add_rows(self, rows: pd.DataFrame, digests: Mapping[str, Digests]) -> None:
        """Append canonical rows, which also have the columns read_index, file and row, and their fingerprints."""
        columns = [pa.array(rows[field.name].tolist(), field.type) for field in _ROWS]
        self._rows.write_batch(pa.RecordBatch.from_arrays(columns, schema=_ROWS))
        for name, values in digests.items():
            self._digests[name].append(values)
        self.num_rows += len(rows)

    def add_signatures(self, signatures: NDArray[np.uint32]) -> None:
        """Append MinHash signatures, [rows, NUM_PERM], in the order of the rows."""
        assert self._signatures is not None and signatures.shape[1] == NUM_PERM
        self._signatures.write(np.ascontiguousarray(signatures).tobytes())

    def add_failures(self, failures: Sequence[Mapping[str, Any]]) -> None:
        """Append failure cases, in the order in which the rows were read."""
        if failures:
            self._failures.write_batch(pa.RecordBatch.from_pylist(list(failures), schema=FAILURES))

    def close(self, summary: Mapping[str, Any]) -> None:
        """Close the files, and write the fingerprints and `summary`."""
        self._rows.close()
        self._failures.close()
        if self._signatures is not None:
            self._signatures.close()
        empty = np.empty((0, 2), dtype=np.uint64)
        digests = [np.concatenate([empty, *self._digests[name]]) for name in FINGERPRINTS]
        np.save(self._directory / "digests.npy", np.stack(digests))
        (self._directory / "summary.json").write_text(json.dumps(summary), encoding="utf-8")


class ShardReader:
    """Reads the files of one shard. Rows are read by position, from a memory-mapped file."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self.summary: dict[str, Any] = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
        self._file = pa.ipc.open_file(pa.memory_map(str(directory / "rows.arrow")))
        sizes = [self._file.get_batch(number).num_rows for number in range(self._file.num_record_batches)]
        self._starts = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def digests(self) -> dict[str, Digests]:
        """Return {name: fingerprints of all rows, [rows, 2]}."""
        return dict(zip(FINGERPRINTS, np.load(self._directory / "digests.npy"), strict=True))

    def signatures(self, positions: NDArray[np.int64]) -> NDArray[np.uint32]:
        """Return the MinHash signatures of the rows at `positions`, [positions, NUM_PERM]."""
        if not len(positions):
            return np.empty((0, NUM_PERM), dtype=np.uint32)
        mapped = np.memmap(self._directory / "signatures.bin", dtype=np.uint32, mode="r").reshape(-1, NUM_PERM)
        return mapped[positions]

    def row(self, position: int) -> dict[str, Any]:
        """Return one row, with the columns read_index, file and row."""
        batch_number = int(np.searchsorted(self._starts, position, side="right")) - 1
        batch = self._file.get_batch(batch_number)
        return batch.slice(position - int(self._starts[batch_number]), 1).to_pylist()[0]

    def batches(self) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Yield (position of its first row, batch) for all rows."""
        for number, start in enumerate(self._starts[:-1].tolist()):
            yield start, self._file.get_batch(number)

    def failures(self) -> Iterator[dict[str, Any]]:
        """Yield the failure cases in the order in which the rows were read."""
        file = pa.ipc.open_file(pa.memory_map(str(self._directory / "failures.arrow")))
        for number in range(file.num_record_batches):
            yield from file.get_batch(number).to_pylist()

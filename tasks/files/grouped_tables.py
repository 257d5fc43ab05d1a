"""Write Parquet files whose bytes depend on the rows alone, not on the batches in which the rows come."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

GROUP_ROWS = 5000


class GroupWriter:
    """Writes a Parquet file in row groups of one size, whatever the sizes of the tables that are added."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._pending: list[pa.Table] = []
        self._num_pending = 0

    def add(self, table: pa.Table) -> None:
        """Append the rows of `table`."""
        self._pending.append(table)
        self._num_pending += table.num_rows
        while self._num_pending >= GROUP_ROWS:
            pending = pa.concat_tables(self._pending)
            self._write(pending.slice(0, GROUP_ROWS))
            self._pending = [pending.slice(GROUP_ROWS)]
            self._num_pending -= GROUP_ROWS

    def close(self) -> None:
        """Write the pending rows, and close the file."""
        if self._num_pending:
            self._write(pa.concat_tables(self._pending))
        self._writer.close()

    def _write(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks(), row_group_size=GROUP_ROWS)

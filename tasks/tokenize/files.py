"""Read and write the Parquet files of this stage: rows in batches that fit in memory, tokens in fixed row groups.

There may be a million rows, and a single row may have 50 MB, so a batch is bounded in rows and in characters. The rows
decide where a row group ends, never the parts, so the file is the same for any number of parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.tokenize.over_length import Record
from tasks.tokenize.rows import Row

TOKENS_FILE = "tokens.parquet"
_TOKENS = pa.list_(pa.int32())
TOKEN_SCHEMA = pa.schema(
    [
        ("row_id", pa.string()),
        ("input_ids", _TOKENS),
        ("labels", _TOKENS),
        ("prompt_length", pa.int32()),
        ("prompt", pa.string()),
        ("expected", pa.string()),
        ("dataset", pa.string()),
        ("rejected_ids", _TOKENS),
        ("is_wanted", pa.bool_()),
        ("group", pa.string()),
    ]
)
TOKEN_COLUMNS = TOKEN_SCHEMA.names

_BATCH_ROWS = 1024
_BATCH_CHARACTERS = 2**21
_BATCH_BYTES = 2**23
_GROUP_ROWS = 4096
_GROUP_BYTES = 2**26
_READ_BUFFER_BYTES = 2**20


def read_rows(path: Path, part_number: int, num_parts: int) -> Iterator[list[Row]]:
    """Yield one part of the rows of a Parquet file, in batches.

    Of n rows, the part holds the rows [part_number * n // num_parts, (part_number + 1) * n // num_parts). A batch has
    at most 1024 rows, and ends with the row that brings it to 2 million characters.
    """
    batch: list[Row] = []
    num_characters = 0
    for table in _read_range(path, part_number, num_parts, Row._fields):
        columns = {name: table.column(name).to_pylist() for name in table.schema.names}
        blank = [""] * table.num_rows
        for values in zip(*(columns.get(name, blank) for name in Row._fields), strict=True):
            row = Row(*(value or "" for value in values))
            batch.append(row)
            num_characters += sum(map(len, row)) - len(row.row_id + row.kind)
            if len(batch) == _BATCH_ROWS or num_characters >= _BATCH_CHARACTERS:
                yield batch
                batch, num_characters = [], 0
    if batch:
        yield batch


def count_kinds(path: Path) -> dict[str, int]:
    """Return the number of rows of each kind in the whole file."""
    counts: dict[str, int] = {}
    for table in _read_range(path, 0, 1, ["kind"]):
        for kind, count in zip(*map(pa.Array.to_pylist, pc.value_counts(table.column("kind")).flatten()), strict=True):
            counts[kind] = counts.get(kind, 0) + count
    return counts


def has_turns(path: Path) -> bool:
    """Return whether any row holds turns or tool definitions, which only a template can render."""
    return any(
        pc.any(pc.greater(pc.binary_length(column), 0)).as_py()
        for table in _read_range(path, 0, 1, ["messages", "tools", "answer", "rejected_answer"])
        for column in table.columns
    )


def first_row_of_kind(path: Path, kinds: Sequence[str]) -> tuple[str, str]:
    """Return (row id, kind) of the first row whose kind is one of `kinds`.

    Raises:
        LookupError: there is none.
    """
    for table in _read_range(path, 0, 1, ["row_id", "kind"]):
        for row_id, kind in zip(table.column("row_id").to_pylist(), table.column("kind").to_pylist(), strict=True):
            if kind in kinds:
                return row_id, kind
    raise LookupError(f"{path.name} has no row of kind {', '.join(kinds)}")


def read_tokens(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a tokens file in batches."""
    yield from _read_range(path, 0, 1, TOKEN_COLUMNS)


def _read_range(path: Path, part_number: int, num_parts: int, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Yield those of `columns` that the file has, of one part of its rows, about 8 MB at a time.

    Row groups outside the part are not read.
    """
    # by default pyarrow reads a whole column of a row group at once
    with pq.ParquetFile(path, buffer_size=_READ_BUFFER_BYTES, pre_buffer=False) as file:
        num_rows = file.metadata.num_rows
        first, end = part_number * num_rows // num_parts, (part_number + 1) * num_rows // num_parts
        present = [name for name in columns if name in file.schema_arrow.names]
        position = 0
        for group in range(file.num_row_groups):
            metadata = file.metadata.row_group(group)
            start, position = position, position + metadata.num_rows
            if position <= first or start >= end:
                continue
            row_bytes = max(1, metadata.total_byte_size // max(1, metadata.num_rows))
            size = max(1, min(_BATCH_ROWS, _BATCH_BYTES // row_bytes))
            for batch in file.iter_batches(size, row_groups=[group], columns=present):
                begin, start = max(0, first - start), start + batch.num_rows
                kept = batch.slice(begin, max(0, batch.num_rows - begin - max(0, start - end)))
                if kept.num_rows:
                    yield kept
                if start >= end:
                    return


def token_table(records: Sequence[Record]) -> pa.RecordBatch:
    """Return the records as a table of `TOKEN_SCHEMA`."""
    columns = [
        pa.array([r.row_id for r in records], pa.string()),
        _list_array([r.input_ids for r in records]),
        _list_array([r.labels for r in records]),
        pa.array([r.prompt_length for r in records], pa.int32()),
        *(pa.array([getattr(r, name) for r in records], pa.string()) for name in ("prompt", "expected", "dataset")),
        _list_array([r.rejected_ids for r in records]),
        pa.array([r.is_wanted for r in records], pa.bool_()),
        pa.array([r.group for r in records], pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=TOKEN_SCHEMA)


def _list_array(rows: Sequence[Sequence[int]]) -> pa.ListArray:
    offsets = np.zeros(len(rows) + 1, np.int32)
    np.cumsum([len(row) for row in rows], out=offsets[1:])
    values = np.fromiter(chain.from_iterable(rows), np.int32, int(offsets[-1]))
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values))


class TokenWriter:
    """Writes a tokens file in row groups that end after 4096 rows, or with the row that brings them to 64 MiB."""

    def __init__(self, path: Path) -> None:
        self._file = pq.ParquetWriter(path, TOKEN_SCHEMA, compression="zstd", compression_level=1, version="2.6")
        self._pending: list[pa.RecordBatch] = []
        self._num_rows = 0
        self._num_bytes = 0

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._flush()
        self._file.close()

    def write(self, batch: pa.RecordBatch) -> None:
        """Add rows, and write each row group as soon as it is full."""
        sizes = _row_bytes(batch)
        while batch.num_rows:
            full = int(np.searchsorted(np.cumsum(sizes), _GROUP_BYTES - self._num_bytes)) + 1
            taken = min(batch.num_rows, full, _GROUP_ROWS - self._num_rows)
            self._pending.append(batch.slice(0, taken))
            self._num_rows += taken
            self._num_bytes += int(sizes[:taken].sum())
            batch, sizes = batch.slice(taken), sizes[taken:]
            if self._num_rows == _GROUP_ROWS or self._num_bytes >= _GROUP_BYTES:
                self._flush()

    def _flush(self) -> None:
        if self._pending:
            # combined, since pages would otherwise end where batches ended
            self._file.write_table(pa.Table.from_batches(self._pending).combine_chunks(), row_group_size=_GROUP_ROWS)
        self._pending, self._num_rows, self._num_bytes = [], 0, 0


def _row_bytes(batch: pa.RecordBatch) -> np.ndarray:
    """Return the size of each row, [rows] int64.

    A token with its label counts 8 bytes, a rejected token, which has no label, 4, and a text its own length.
    """
    tokens, rejected = (
        pc.list_value_length(batch.column(name)).to_numpy(zero_copy_only=False).astype(np.int64)
        for name in ("input_ids", "rejected_ids")
    )
    texts = [pc.binary_length(batch.column(name)).to_numpy(zero_copy_only=False) for name in ("prompt", "expected")]
    return 8 * tokens + 4 * rejected + texts[0] + texts[1]

"""Read Parquet and Arrow files to rows. Owns pyarrow's readers, which take a damaged file for a whole one at times."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from configs.errors import DataError
from configs.streams import read_bytes, shown
from tasks.get_data.readers import Row, bad_row, fault_of_text

_IPC_FILE_MARK = b"ARROW1"
_BATCH_ROWS = 4096


def read_rows(path: str, kind: str) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) of a Parquet file, or an Arrow file or stream; lists and structs are lists and dicts.

    Raises:
        DataError: a file that cannot be read, is cut short or damaged, or has two columns of one name.
    """
    import pyarrow as pa

    name = {".parquet": "Parquet", ".arrow": "Arrow"}[kind]
    content = read_bytes(path)
    number = 0
    try:
        for batch in _parquet_batches(content) if kind == ".parquet" else _ipc_batches(content):
            names = batch.schema.names
            if len(set(names)) < len(names):
                raise DataError(f"{shown(path)} has two columns of one name; rename one of them")
            # reading checks the frame only: values may point outside their buffers, or not be UTF-8
            batch.validate(full=True)
            for record in batch.to_pylist():
                number += 1
                fault = fault_of_text(record)
                yield number, bad_row(fault, _as_text(record)) if fault else record
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError, RecursionError):
        raise DataError(
            f"{shown(path)} is not a whole {name} file, or has values that Python does not; write it again"
        ) from None


def _parquet_batches(content: bytes) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    yield from pq.ParquetFile(pa.BufferReader(content)).iter_batches(batch_size=_BATCH_ROWS)


def _ipc_batches(content: bytes) -> Iterator[Any]:
    import pyarrow as pa

    if not content.startswith(_IPC_FILE_MARK):
        yield from pa.ipc.open_stream(content)
        return
    reader = pa.ipc.open_file(content)
    for number in range(reader.num_record_batches):
        yield reader.get_batch(number)


def _as_text(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, default=str)

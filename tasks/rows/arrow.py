"""Read Parquet and Arrow files to rows. Owns pyarrow's readers, which take a damaged file for a whole one at times."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from configs.errors import DataError
from tasks.files.streams import compression, is_remote, open_bytes, open_raw, open_seekable, redacted, user_error
from tasks.rows.rows import Row, bad_row, fault_of_text

_IPC_FILE_MARK = b"ARROW1"
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
_BATCH_ROWS = 4096
_BATCH_BYTES = 2**23
_BUFFER_BYTES = 2**20


def read_rows(path: str, kind: str) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) of a Parquet file, or an Arrow file or stream; lists and structs are lists and dicts.

    Memory is bounded by 4,096 rows or about 8 MiB of a Parquet file, as its metadata has it, and by one batch of an
    Arrow file; a local one is mapped. A compressed file, or one of a web server without ranges, is copied to a
    temporary file first.

    Raises:
        DataError: a file that cannot be read, is cut short or damaged, or has two columns of one name.
    """
    import pyarrow as pa

    name = {".parquet": "Parquet", ".arrow": "Arrow"}[kind]
    number = 0
    try:
        with closing(_open_seekable(path) if kind == ".parquet" else _open_ipc(path)) as file:
            for batch in _parquet_batches(file) if kind == ".parquet" else _ipc_batches(file):
                names = batch.schema.names
                if len(set(names)) < len(names):
                    raise DataError(f"{redacted(path)} has two columns of one name; rename one of them")
                # reading checks the frame only: values may point outside their buffers, or not be UTF-8
                batch.validate(full=True)
                for record in _records(batch):
                    number += 1
                    fault = fault_of_text(record)
                    yield number, bad_row(fault, _as_text(record)) if fault else record
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError, RecursionError):
        raise DataError(
            f"{redacted(path)} is not a whole {name} file, or has values that Python does not; write it again"
        ) from None


def _records(batch: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch, of which only some are Python's objects at a time."""
    step = _rows_at_a_time(batch.num_rows, batch.get_total_buffer_size())
    for start in range(0, batch.num_rows, step):
        yield from batch.slice(start, step).to_pylist()


def _rows_at_a_time(num_rows: int, num_bytes: int) -> int:
    return min(max(_BATCH_BYTES * num_rows // max(num_bytes, 1), 1), _BATCH_ROWS)


def _parquet_batches(file: Any) -> Iterator[Any]:
    import pyarrow.parquet as pq

    # with a buffer, columns are read page by page and not whole
    reader = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    num_left = reader.metadata.num_rows
    for number in range(reader.num_row_groups):
        group = reader.metadata.row_group(number)
        size = _rows_at_a_time(group.num_rows, group.total_byte_size)
        for batch in reader.iter_batches(batch_size=size, row_groups=[number]):
            num_left -= batch.num_rows
            yield batch
    if num_left:
        raise ValueError("the rows are not as many as the file says")


def _ipc_batches(file: Any) -> Iterator[Any]:
    import pyarrow as pa

    start = file.read(len(_STREAM_END))
    file.seek(0)
    if start.startswith(_IPC_FILE_MARK):
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
        return
    yield from pa.ipc.open_stream(file)
    # a stream that was cut between two batches would be taken for a whole one; the oldest ones end in four zeros
    end = _STREAM_END if start.startswith(_STREAM_END[:4]) else _STREAM_END[4:]
    file.seek(file.tell() - len(end))
    if file.read(len(end) + 1) != end:
        raise ValueError("the stream has no end, or does not end there")


def _open_seekable(path: str) -> Any:
    import pyarrow as pa

    source = None if compression(path) else open_seekable(path)
    return pa.PythonFile(_Named(path, source or _temporary_copy(path)), mode="r")


def _open_ipc(path: str) -> Any:
    import pyarrow as pa

    if compression(path) or is_remote(path):
        return _open_seekable(path)
    # for its errors, which name the file
    open_raw(path).close()
    return pa.memory_map(path)


def _temporary_copy(path: str) -> Any:
    """Return a file of the decompressed bytes that is gone when it is closed."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (its reader closes it)
    try:
        with closing(open_bytes(path)) as stream:
            shutil.copyfileobj(stream, copy, _BUFFER_BYTES)
        copy.seek(0)
    except OSError as error:
        copy.close()
        raise DataError(
            f"{redacted(path)} cannot be copied to {tempfile.gettempdir()}: {error.strerror}; free space or set TMPDIR"
        ) from None
    return copy


class _Named(io.RawIOBase):
    """A file in which one may seek, and whose errors name it."""

    def __init__(self, path: str, source: Any) -> None:
        self._path, self._source = path, source

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        try:
            return self._source.read(size)
        except Exception as error:  # see `tasks.files.streams.file_system`
            raise user_error(self._path, error) from None

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._source.seek(offset, whence)

    def tell(self) -> int:
        return self._source.tell()

    def close(self) -> None:
        self._source.close()
        super().close()


def _as_text(record: dict[str, Any]) -> str:
    return json.dumps(record, ensure_ascii=False, default=str)

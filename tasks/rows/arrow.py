"""Read the rows of Parquet and Arrow files. Owns pyarrow's readers, which let through some damaged files."""

from __future__ import annotations

import io
import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from typing import Any

from configs.addresses import shown_address
from configs.errors import DataError
from tasks.files.streams import (
    compression,
    is_pointer,
    is_remote,
    open_bytes,
    open_raw,
    open_seekable,
    pointer_error,
    user_error,
)
from tasks.rows.rows import Row, bad_row, fault_of_characters
from tasks.rows.values import without_padding

_IPC_FILE_START = b"ARROW1"
_STREAM_END = b"\xff\xff\xff\xff\0\0\0\0"
_BATCH_ROWS = 4096
_BATCH_BYTES = 2**23
_BUFFER_BYTES = 2**20


def read_rows(path: str, kind: str) -> Iterator[tuple[int, Row]]:
    """Yield (number, row) for each row of a Parquet file, an Arrow file or an Arrow stream, as Python values.

    A null in a struct is left out, since a table also has one for each key that a row does not have.
    Memory is bounded by 4,096 rows or about 8 MiB of a Parquet file, by the sizes in its metadata, and by one batch of
    an Arrow file. A local Arrow file is memory-mapped. A compressed file, or a file on a web server that does not serve
    ranges, is first copied to a temporary file.

    Raises:
        DataError: the file cannot be read, is cut short or damaged, or has two columns of the same name.
    """
    import pyarrow as pa

    name = {".parquet": "Parquet", ".arrow": "Arrow"}[kind]
    number = 0
    try:
        with closing(_open_seekable(path) if kind == ".parquet" else _open_ipc(path)) as file:
            for batch in _parquet_batches(file) if kind == ".parquet" else _ipc_batches(file):
                names = batch.schema.names
                if len(set(names)) < len(names):
                    raise DataError(f"{shown_address(path)} has two columns of the same name; rename one of them")
                # reading a batch checks its structure only: values may point outside their buffers or not be UTF-8
                batch.validate(full=True)
                for record in _records(batch):
                    number += 1
                    fault = fault_of_characters(record)
                    yield number, bad_row(fault, _as_text(record)) if fault else record
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError, MemoryError, RecursionError):
        if is_pointer(path):
            raise pointer_error(path) from None
        raise DataError(
            f"{shown_address(path)} is not a whole {name} file, or has values that Python cannot hold; write it again"
        ) from None


def _records(batch: Any) -> Iterator[dict[str, Any]]:
    """Yield the rows of a batch, converting a bounded number of them to Python objects at a time."""
    step = _rows_at_a_time(batch.num_rows, batch.get_total_buffer_size())
    for start in range(0, batch.num_rows, step):
        yield from map(without_padding, batch.slice(start, step).to_pylist())


def _rows_at_a_time(num_rows: int, num_bytes: int) -> int:
    return min(max(_BATCH_BYTES * num_rows // max(num_bytes, 1), 1), _BATCH_ROWS)


def _parquet_batches(file: Any) -> Iterator[Any]:
    import pyarrow.parquet as pq

    # with a buffer size, pyarrow reads columns page by page, not as a whole
    reader = pq.ParquetFile(file, buffer_size=_BUFFER_BYTES, pre_buffer=False)
    num_left = reader.metadata.num_rows
    for number in range(reader.num_row_groups):
        group = reader.metadata.row_group(number)
        size = _rows_at_a_time(group.num_rows, group.total_byte_size)
        for batch in reader.iter_batches(batch_size=size, row_groups=[number]):
            num_left -= batch.num_rows
            yield batch
    if num_left:
        raise ValueError("the number of rows differs from the file's metadata")


def _ipc_batches(file: Any) -> Iterator[Any]:
    import pyarrow as pa

    start = file.read(len(_STREAM_END))
    file.seek(0)
    if start.startswith(_IPC_FILE_START):
        reader = pa.ipc.open_file(file)
        for number in range(reader.num_record_batches):
            yield reader.get_batch(number)
        return
    yield from pa.ipc.open_stream(file)
    # pyarrow accepts a stream that was cut between two batches, so check its end: four zeros in the oldest versions
    end = _STREAM_END if start.startswith(_STREAM_END[:4]) else _STREAM_END[4:]
    file.seek(file.tell() - len(end))
    if file.read(len(end) + 1) != end:
        raise ValueError("the stream's end marker is missing, or something follows it")


def _open_seekable(path: str) -> Any:
    import pyarrow as pa

    source = None if compression(path) else open_seekable(path)
    return pa.PythonFile(_NamedFile(path, source or _temporary_copy(path)), mode="r")


def _open_ipc(path: str) -> Any:
    import pyarrow as pa

    if compression(path) or is_remote(path):
        return _open_seekable(path)
    # raises the errors that name the file
    open_raw(path).close()
    return pa.memory_map(path)


def _temporary_copy(path: str) -> Any:
    """Return a temporary file of the decompressed bytes, which is deleted when it is closed."""
    copy = tempfile.TemporaryFile()  # noqa: SIM115 (its reader closes it)
    try:
        with closing(open_bytes(path)) as stream:
            shutil.copyfileobj(stream, copy, _BUFFER_BYTES)
        copy.seek(0)
    except OSError as error:
        copy.close()
        raise DataError(
            f"{shown_address(path)} cannot be copied to {tempfile.gettempdir()}: {error.strerror}; free space or set "
            "TMPDIR"
        ) from None
    return copy


class _NamedFile(io.RawIOBase):
    """A seekable file whose read errors name its path."""

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

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
from tasks.rows.text_files import MAX_ROW_LENGTH
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
    an Arrow file; texts that stand in a dictionary are counted as often as rows have them. A local Arrow file is
    memory-mapped. A compressed file, or a file on a web server that does not serve ranges, is first copied to a
    temporary file.

    Raises:
        DataError: the file cannot be read, is cut short or damaged, has two columns of the same name, has a row of
            more than 64 MiB, or needs more memory than there is.
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
                    if record is None:
                        raise DataError(
                            f"{shown_address(path)} row {number} has more than 64 MiB, where a text of a dictionary "
                            "counts each time; shorten it"
                        )
                    fault = fault_of_characters(record)
                    yield number, bad_row(fault, _as_text(record)) if fault else record
    except MemoryError:
        fix = f"write it with smaller {'row groups' if kind == '.parquet' else 'batches'}, or as JSON Lines"
        raise DataError(f"{shown_address(path)} needs more memory than there is; {fix}") from None
    except (pa.ArrowException, OSError, ValueError, LookupError, TypeError, OverflowError, RecursionError):
        if is_pointer(path):
            raise pointer_error(path) from None
        raise DataError(
            f"{shown_address(path)} is not a whole {name} file, or has values that Python cannot hold; write it again"
        ) from None


def _records(batch: Any) -> Iterator[dict[str, Any] | None]:
    """Yield the rows of a batch, converting a bounded number of them to Python objects at a time; None for one that is
    too large."""
    step = _rows_at_a_time(batch.num_rows, sum(map(_decoded_bytes, batch.columns)))
    for start in range(0, batch.num_rows, step):
        rows = batch.slice(start, step)
        if sum(map(_decoded_bytes, rows.columns)) <= MAX_ROW_LENGTH:
            yield from map(without_padding, rows.to_pylist())
        else:
            yield from _single_records(rows)


def _single_records(rows: Any) -> Iterator[dict[str, Any] | None]:
    for number in range(rows.num_rows):
        row = rows.slice(number, 1)
        is_small = sum(map(_decoded_bytes, row.columns)) <= MAX_ROW_LENGTH
        yield without_padding(row.to_pylist()[0]) if is_small else None


def _decoded_bytes(array: Any) -> int:
    """Return the size of an array's values, where each row has its own copy of a value in a dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    kind = array.type
    if pa.types.is_dictionary(kind):
        if pa.types.is_string(kind.value_type) or pa.types.is_binary(kind.value_type):
            sizes = pc.binary_length(array.dictionary).take(array.indices)
            return int(pc.sum(sizes.cast(pa.int64())).as_py() or 0) + len(array)
        return array.indices.nbytes + array.dictionary.nbytes
    if pa.types.is_struct(kind):
        return sum(map(_decoded_bytes, array.flatten()))
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_map(kind):
        return 8 * len(array) + _decoded_bytes(array.flatten())
    return int(array.nbytes)


def _rows_at_a_time(num_rows: int, num_bytes: int) -> int:
    return min(max(_BATCH_BYTES * num_rows // max(num_bytes, 1), 1), _BATCH_ROWS)


def _parquet_batches(file: Any) -> Iterator[Any]:
    import pyarrow.parquet as pq

    metadata = pq.ParquetFile(file).metadata
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    # a text of megabytes, once in the file, would be copied for each row of a batch
    encoded = {
        column.path_in_schema
        for group in groups
        for column in (group.column(number) for number in range(group.num_columns))
        if column.has_dictionary_page and column.physical_type == "BYTE_ARRAY"
    }
    # with a buffer size, pyarrow reads columns page by page, not as a whole
    reader = pq.ParquetFile(
        file, metadata=metadata, buffer_size=_BUFFER_BYTES, pre_buffer=False, read_dictionary=sorted(encoded)
    )
    num_left = metadata.num_rows
    for number, group in enumerate(groups):
        num_values = sum(group.column(column).num_values for column in range(group.num_columns))
        if num_values > MAX_ROW_LENGTH * max(group.num_rows, 1):
            # runs of equal values take no room in the file
            raise MemoryError
        size = _rows_at_a_time(group.num_rows, max(group.total_byte_size, num_values))
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

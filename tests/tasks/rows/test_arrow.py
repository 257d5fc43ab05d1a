"""Parquet and Arrow files: a file cut at any byte gives one error, and is never taken for a whole one."""

from __future__ import annotations

import contextlib
import gzip
import io
import resource
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.data_files import encode_table, numbered_rows, read, read_error, rows_and_error

from tasks.rows import arrow


@pytest.mark.parametrize("kind", [".parquet", ".arrow", "stream"])
def test_lists_and_structs_of_any_type_become_lists_and_dicts(kind: str, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    turn = pa.struct([("role", pa.large_string()), ("content", pa.string())])
    table = pa.table(
        {
            "messages": pa.array([turns, None], pa.large_list(turn)),
            "label": pa.array(["x", "x"]).dictionary_encode(),
            "score": pa.array([1.5, None]),
        }
    )
    path = tmp_path / f"rows{'.arrow' if kind == 'stream' else kind}"
    path.write_bytes(encode_table(kind, table))
    assert [row.record for row in read(path).rows] == [
        {"messages": turns, "label": "x", "score": 1.5},
        {"messages": None, "label": "x", "score": None},
    ]


def test_row_numbers_continue_across_batches(tmp_path: Path) -> None:
    table = pa.table({"text": [str(n) for n in range(10_000)]})
    (tmp_path / "rows.parquet").write_bytes(encode_table(".parquet", table))
    rows = list(read(tmp_path / "rows.parquet").rows)
    assert [row.row for row in rows] == list(range(1, 10_001))
    assert all(row.record["text"] == str(row.row - 1) for row in rows)


@pytest.mark.parametrize("kind", [".parquet", ".arrow", "stream"])
def test_a_damaged_table_gives_one_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{'.arrow' if kind == 'stream' else kind}"
    name = "Parquet" if kind == ".parquet" else "Arrow"
    whole = encode_table(kind, pa.table({"text": [f"row {n}" for n in range(500)]}))
    for content in (whole[: len(whole) // 2], whole[:200], b"PAR1 nonsense", b"ARROW1 nonsense", b"x"):
        path.write_bytes(content)
        assert f"{path} is not a whole {name} file" in read_error(path)
    path.write_bytes(encode_table(kind, pa.table([["a"], ["b"]], names=["x", "x"])))
    assert "two columns of the same name" in read_error(path)
    not_utf8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    path.write_bytes(encode_table(kind, pa.table({"text": not_utf8})))
    assert f"{path} is not a whole {name} file, or has values that Python cannot hold" in read_error(path)


def test_a_nul_in_a_typed_table_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "rows.arrow").write_bytes(encode_table("stream", pa.table({"text": ["a", "b\0", "c"]})))
    found = read(tmp_path / "rows.arrow")
    assert [row.row for row in found.rows] == [1, 3]
    assert [(f.row, f.reason) for f in found.failures] == [(2, "holds a NUL byte")]


def table(num_rows: int) -> pa.Table:
    return pa.table({"text": [f"row {number}" for number in range(num_rows)]})


def encoded(kind: str, num_batches: int = 5) -> bytes:
    sink = io.BytesIO()
    if kind == "parquet":
        pq.write_table(table(5000), sink, row_group_size=1000)
    else:
        new = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
        with new(sink, table(1).schema) as writer:
            for _ in range(num_batches):
                writer.write_table(table(1000))
    return sink.getvalue()


@pytest.mark.parametrize("place", ["local", "memory", "gz"])
@pytest.mark.parametrize("kind", ["parquet", "file", "stream"])
def test_a_table_cut_after_its_first_batches_gives_one_error(kind: str, place: str, tmp_path: Path) -> None:
    ending = ".parquet" if kind == "parquet" else ".arrow"
    path = f"memory://cut/rows{ending}" if place == "memory" else str(tmp_path / f"rows{ending}")
    compress: Callable[[bytes], bytes] = bytes
    if place == "gz":
        path, compress = f"{path}.gz", gzip.compress
    whole = encoded(kind)
    for length in (*range(len(whole) // 2, len(whole), 997), len(whole) - 8, len(whole) - 1):
        with fsspec.open(path, "wb") as file:
            file.write(compress(whole[:length]))
        rows, error = rows_and_error(path)
        assert error is not None and "is not a whole" in error
        assert [row["text"] for _, row in rows] == [f"row {n % 1000}" for n in range(len(rows))]
        assert len(rows) < 5000 or kind == "stream"
    with fsspec.open(path, "wb") as file:
        file.write(compress(whole))
    assert len(numbered_rows(path)) == 5000


def test_a_stream_cut_between_two_batches_or_followed_by_another_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.arrow"
    two, three = encoded("stream", 2), encoded("stream", 3)
    # both begin with the same two batches; after them, `two` has only its end mark of 8 bytes
    assert three.startswith(two[:-8])
    for content in (two[:-8], three + two, three + b"\0" * 8, two[:-4]):
        path.write_bytes(content)
        rows, error = rows_and_error(path)
        assert len(rows) >= 2000 and error is not None and "is not a whole Arrow file" in error
    for content, expected in ((two, 2000), (three, 3000)):
        path.write_bytes(content)
        assert len(numbered_rows(path)) == expected


def test_streams_of_the_oldest_arrow_versions_are_read(tmp_path: Path) -> None:
    sink = io.BytesIO()
    with pa.ipc.new_stream(sink, table(1).schema, options=pa.ipc.IpcWriteOptions(use_legacy_format=True)) as writer:
        writer.write_table(table(10))
    path = tmp_path / "rows.arrow"
    path.write_bytes(sink.getvalue())
    assert len(numbered_rows(path)) == 10


def test_a_batch_of_rows_of_megabytes_has_few_rows(tmp_path: Path) -> None:
    big = pa.table({"text": [str(n) * 3_000_000 for n in range(8)], "n": list(range(8))})
    with contextlib.closing(pa.BufferOutputStream()) as sink:
        pq.write_table(big, sink)
        file = pa.BufferReader(sink.getvalue())
        sizes = [batch.num_rows for batch in arrow._parquet_batches(file)]
    # 8 MiB hold two rows of 3 MB
    assert sizes == [2, 2, 2, 2]


def test_a_full_disk_names_the_file_and_the_folder_of_its_temporary_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    path = tmp_path / "rows.parquet.gz"
    path.write_bytes(gzip.compress(encoded("parquet")))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))
    try:
        _, error = rows_and_error(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert error == f"{path} cannot be copied to {tmp_path}: File too large; free space or set TMPDIR"
    assert [child.name for child in tmp_path.iterdir()] == [path.name]


def test_a_remote_table_whose_server_fails_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    fsspec.filesystem("memory").pipe("/fails/rows.parquet", encoded("parquet"))
    opened = type(fsspec.filesystem("memory").open("/fails/rows.parquet"))
    read_whole = opened.read

    def fail(self: Any, size: int = -1) -> bytes:
        if self.tell() < 4000:
            raise ConnectionResetError("row 12: secret")
        return read_whole(self, size)

    monkeypatch.setattr(opened, "read", fail, raising=False)
    _, error = rows_and_error("memory://fails/rows.parquet")
    assert error is not None and error.startswith("memory://fails/rows.parquet cannot be read (ConnectionResetError)")

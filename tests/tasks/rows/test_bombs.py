"""Files that are small on disk and large in memory: one line of an error, in little memory and time."""

from __future__ import annotations

import gzip
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from conftest import ROOT
from support.data_files import read, read_error

from tasks.rows import arrow
from tasks.rows.values import parse_json

MEBIBYTE = 2**20
# prints the error, and by how many MiB the peak of memory rose
SCRIPT = """
import resource, sys
import pyarrow.parquet
from configs.errors import DataError
from tasks.files.places import DataFile
from tasks.rows.readers import read_rows

for path in sys.argv[1:]:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        print(sum(1 for _ in read_rows(DataFile(path, "rows"))))
    except DataError as error:
        print(str(error).replace("\\n", " / "))
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def write(path: Path, pieces: Iterable[bytes]) -> Path:
    if path.suffix == ".zst":
        with path.open("wb") as raw, zstandard.ZstdCompressor().stream_writer(raw) as file:
            for piece in pieces:
                file.write(piece)
    else:
        with gzip.open(path, "wb", compresslevel=1) as file:
            for piece in pieces:
                file.write(piece)
    return path


def test_a_line_without_end_is_one_error_and_never_in_memory(tmp_path: Path) -> None:
    long = [b"x" * MEBIBYTE] * 200
    files = {
        write(
            tmp_path / "rows.jsonl.zst", [b'{"text": "', *long]
        ): "line 1 is longer than 64 MiB; write one row on each line, or shorten it",
        write(
            tmp_path / "rows.txt.zst", [b"a\n", *long]
        ): "line 2 is longer than 64 MiB; write one row on each line, or shorten it",
        write(
            tmp_path / "rows.json.zst", [b'[{"text": "', *long]
        ): "line 1 begins a row of over 67108864 characters / close "
        "its quote or bracket, or write the rows as a JSON list, or one on each line",
        write(
            tmp_path / "object.json.zst", [b'{"text":\n"', *long]
        ): "line 1 begins a row of over 67108864 characters / "
        "close its quote or bracket, or write the rows as a JSON list, or one on each line",
        write(
            tmp_path / "rows.csv.zst", [b"a,b\n", *long]
        ): "line 2: over 134217728 characters without the end of a row / "
        "close its quote, shorten the row, or remove blank lines",
    }
    command = [sys.executable, "-c", SCRIPT, *map(str, files)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)
    lines = done.stdout.splitlines()
    assert lines[::2] == [f"{path}{'' if rule[4] == '_' else ' '}{rule}" for path, rule in files.items()], done.stderr
    assert all(int(line) < 300 for line in lines[1::2]), lines[1::2]


@pytest.mark.parametrize(
    ("name", "pieces", "rule"),
    [
        ("a.jsonl.gz", [b"\n" * MEBIBYTE] * 2, "has over 1048576 blank lines before line 1048577; remove them"),
        (
            "a.txt.zst",
            [b"x\n", *[b" \n" * MEBIBYTE] * 2],
            "has over 1048576 blank lines before line 1048578; remove them",
        ),
        (
            "a.csv.zst",
            [b"a\n1\n", *[b"\n" * MEBIBYTE] * 2],
            "has over 1048576 blank lines before line 1048580; remove them",
        ),
        (
            "a.json.zst",
            [b"\n", *[b" " * MEBIBYTE] * 65],
            "has more than 67108864 blank characters before line 2; remove",
        ),
        (
            "b.json.zst",
            [b"[", *[b" " * MEBIBYTE] * 65],
            "has more than 67108864 blank characters before line 1; remove",
        ),
    ],
)
def test_blank_lines_without_end_are_an_error(name: str, pieces: list[bytes], rule: str, tmp_path: Path) -> None:
    assert rule in read_error(write(tmp_path / name, pieces))


def test_some_blank_lines_are_skipped(tmp_path: Path) -> None:
    row = b'{"text": "a"}\n'
    path = write(tmp_path / "rows.jsonl.zst", [row, b"\n" * (MEBIBYTE - 1), b" \n", row, b"\n" * MEBIBYTE, row])
    assert [found.row for found in read(path).rows] == [1, MEBIBYTE + 2, 2 * MEBIBYTE + 3]


@pytest.mark.parametrize("depth", [64, 500, 700])
@pytest.mark.parametrize("kind", [".jsonl", ".json"])
def test_a_row_that_is_nested_too_deeply_is_a_bad_row(kind: str, depth: int, tmp_path: Path) -> None:
    good, bad = '{"text": "[[["}', f'{{"text": {"[" * depth}{"]" * depth}}}'
    text = f"{good}\n{bad}\n{good}\n" if kind == ".jsonl" else f"[{good}, {bad}, {good}]"
    (tmp_path / f"rows{kind}").write_text(text)
    found = read(tmp_path / f"rows{kind}")
    assert [row.record for row in found.rows] == [{"text": "[[["}] * 2
    assert [(failure.row, failure.reason) for failure in found.failures] == [(2, "is nested more than 64 deep")]


def test_a_row_of_63_levels_below_its_own_is_read(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(f'{{"text": {"[" * 63}{"]" * 63}}}\n')
    [row] = read(tmp_path / "rows.jsonl").rows
    assert isinstance(row.record, dict)


@pytest.mark.parametrize("text", ["[" * 65 + "]" * 65, "[" * 100_000, f"[{'9' * 5000}]", "[1e400]", '{"a": 1, "a": 2}'])
def test_json_within_a_row_has_the_same_bounds(text: str) -> None:
    with pytest.raises(ValueError, match=r"nested more than 64|5000 digits|beyond 1.8e308|names 'a' twice"):
        parse_json(text)


def dictionary(texts: list[str], num_rows: int) -> pa.Array:
    return pa.DictionaryArray.from_arrays(pa.array([0] * num_rows, pa.int32()), pa.array(texts))


def test_a_dictionary_of_long_texts_is_read_row_by_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    table = pa.table({"text": dictionary(["y" * 10_000_000], 100)})
    pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30)
    assert path.stat().st_size < 20_000
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=100
    )
    rows, mebibytes = map(int, done.stdout.split())
    # 1 GB as texts
    assert rows == 100 and mebibytes < 300, done.stderr


@pytest.mark.parametrize("kind", [".parquet", ".arrow"])
def test_a_row_that_repeats_a_text_of_a_dictionary_too_often_is_named(kind: str, tmp_path: Path) -> None:
    texts = dictionary(["y" * 1_000_000], 101)
    table = pa.table({"texts": pa.ListArray.from_arrays(pa.array([0, 1, 101], pa.int32()), texts)})
    path = tmp_path / f"rows{kind}"
    if kind == ".parquet":
        pq.write_table(table, path, compression="zstd", dictionary_pagesize_limit=2**30)
    else:
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    rule = "row 2 has more than 64 MiB, where a text of a dictionary counts each time; shorten it"
    assert read_error(path) == f"{path} {rule}"


def test_a_run_of_values_without_end_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrow, "MAX_ROW_LENGTH", 100_000)
    path = tmp_path / "rows.parquet"
    values = pa.array(np.zeros(100_001, dtype="int8"))
    pq.write_table(pa.table({"a": pa.ListArray.from_arrays(pa.array([0, len(values)], pa.int32()), values)}), path)
    assert path.stat().st_size < 1000
    rule = "needs more memory than there is; write it with smaller row groups, or as JSON Lines"
    assert read_error(path) == f"{path} {rule}"


def test_a_column_that_is_nested_too_deeply_is_an_error(tmp_path: Path) -> None:
    kind: pa.DataType = pa.int8()
    for _ in range(900):
        kind = pa.list_(kind)
    pq.write_table(pa.table({"a": pa.array([None], kind)}), tmp_path / "rows.parquet")
    assert "has values that Python cannot hold; write it again" in read_error(tmp_path / "rows.parquet")


def test_texts_of_dictionaries_at_any_place_are_read_as_they_are(tmp_path: Path) -> None:
    turn = pa.struct([("role", pa.large_string()), ("content", pa.string())])
    rows = [
        {"messages": [{"role": "user", "content": f"q {n % 3}"}], "tags": ["a", "b"] * (n % 2), "raw": b"\xff", "n": n}
        for n in range(5000)
    ]
    schema = pa.schema(
        [("messages", pa.list_(turn)), ("tags", pa.list_(pa.string())), ("raw", pa.binary()), ("n", pa.int64())]
    )
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "rows.parquet", row_group_size=1700)
    assert [found.record for found in read(tmp_path / "rows.parquet").rows] == rows

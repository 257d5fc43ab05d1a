"""Reading a file takes little memory, however long the file is; the memory of a separate process is measured."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from conftest import ROOT

SIZE = 100_000_000
ROW = {"prompt": "What is it? " * 20, "completion": "It is that. " * 20}
NUM_ROWS = SIZE // 500
MAX_MIB = 48
# runs in a separate process, so that its peak memory is that of reading alone
READ_SCRIPT = """
import resource, sys
import pyarrow.parquet
from tasks.files.places import DataFile
from tasks.rows.readers import read_rows

def anonymous():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))

def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

list(read_rows(DataFile(sys.argv[2], "warm")))
before, before_peak, most = anonymous(), peak(), 0
for number, row in read_rows(DataFile(sys.argv[1], "rows")):
    assert isinstance(row, dict)
    most = max(most, anonymous()) if number % 100 == 1 else most
print(number, (most - before) // 1024, (peak() - before_peak) // 1024)
"""


def write(path: Path, num_rows: int) -> None:
    kind = path.name.partition(".")[2]
    table = pa.Table.from_pylist([ROW] * 1000)
    with fsspec.open(str(path), "wb", compression="infer") as file:
        if kind.startswith("parquet"):
            # one row group, so that its columns are as long as the file
            with pq.ParquetWriter(file, table.schema, compression="none", use_dictionary=False) as writer:
                writer.write_table(pa.concat_tables([table] * (num_rows // 1000)), row_group_size=num_rows)
        elif kind.startswith("arrow"):
            new = pa.ipc.new_file if kind.endswith("gz") else pa.ipc.new_stream
            with new(file, table.schema) as writer:
                for _ in range(num_rows // 1000):
                    writer.write_table(table)
        elif kind.startswith("csv"):
            line = ",".join(f'"{value}"' for value in ROW.values()).encode()
            file.write(b"prompt,completion\n" + b"\n".join([line] * num_rows))
        else:
            lines, line = path.name.startswith("lines") or kind.startswith("jsonl"), json.dumps(ROW).encode()
            file.write(b"\n".join([line] * num_rows) if lines else b"[" + b",\n".join([line] * num_rows) + b"]")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    "name",
    [
        "rows.jsonl",
        "rows.jsonl.zst",
        "rows.json",
        "rows.json.gz",
        "lines.json",
        "rows.csv",
        "rows.csv.zst",
        "rows.parquet",
        "rows.parquet.gz",
        "rows.arrow",
        "rows.arrow.gz",
    ],
)
def test_reading_a_long_file_takes_little_memory(name: str, tmp_path: Path) -> None:
    path, warm = tmp_path / name, tmp_path / "warm" / name
    warm.parent.mkdir()
    write(path, NUM_ROWS // 1000 * 1000)
    write(warm, 1000)
    # Arrow's own allocator keeps tens of megabytes, however little is allocated
    settings = {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path), "ARROW_DEFAULT_MEMORY_POOL": "system"}
    result = subprocess.run(
        [sys.executable, "-c", READ_SCRIPT, path, warm],
        env={**os.environ, **settings},
        capture_output=True,
        text=True,
        check=True,
    )
    num_rows, anonymous_mib, peak_mib = map(int, result.stdout.split())
    assert num_rows == NUM_ROWS // 1000 * 1000
    assert anonymous_mib < MAX_MIB
    # the pages of a mapped file belong to the system, which takes them back when it needs memory
    assert peak_mib < MAX_MIB or name == "rows.arrow"
    assert {child.name for child in tmp_path.iterdir()} == {name, "warm"}, "a temporary file is left"

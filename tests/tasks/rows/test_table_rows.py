"""CSV and TSV files: errors name the row and its line, and an unclosed quote is found."""

from __future__ import annotations

import gzip
from pathlib import Path

import pandas as pd
import pytest
import zstandard
from support.data_files import numbered_rows, read, read_error, rows_and_error

from configs.errors import DataError
from tasks.rows import table_rows


@pytest.mark.parametrize(
    ("kind", "content", "message"),
    [
        (".csv", 'a,b\n"1","2"\n"x" y,3\n', "row 2 (line 3) is not CSV: ',' expected after '\"'; repair its quotes"),
        (".csv", 'a,b\n"1\n1","2"\n1,"3\n4\n5\n6\n', "row 2 (line 4) is not CSV: unexpected end of data"),
        (".tsv", 'a\tb\n"1"\t"2"\n"x" y\t3\n', "row 2 (line 3) is not TSV"),
        (".tsv", 'a\tb\n1\t"2\n', "row 1 (line 2) is not TSV: unexpected end of data"),
        (".tsv", "a,b\n1,2\n", "line 1: cells are separated by ','; save it with '\\t' between cells"),
        (".csv", "a\tb\n1\t2\n", "line 1: cells are separated by '\\t'; save it with ',' between cells"),
        (".csv", "a,\n1,2\n", "empty or repeated column name"),
        (".csv", ",a,\n1,2,3\n", "empty or repeated column name"),
    ],
)
def test_a_broken_table_names_file_and_line(kind: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}"
    path.write_text(content)
    assert read_error(path).startswith(f"{path} ") and message in read_error(path)


def test_a_first_column_without_a_name_is_the_index_of_pandas(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    rows = pd.DataFrame({"prompt": ["q", "r"], "completion": ["a", "b"]})
    rows.to_csv(path)
    assert numbered_rows(path) == [
        (1, {"Unnamed: 0": "0", "prompt": "q", "completion": "a"}),
        (2, {"Unnamed: 0": "1", "prompt": "r", "completion": "b"}),
    ]


def test_rows_with_a_nul_or_too_many_cells_are_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\nq,"a\nb"\nq,a\0b\nq,a,c\n\nq,d\n')
    found = read(path)
    assert [(row.row, row.record["completion"]) for row in found.rows] == [(1, "a\nb"), (5, "d")]
    assert [(f.row, f.reason, f.value) for f in found.failures] == [
        (2, "holds a NUL byte", "q,a\0b"),
        (3, "3 cells where the header has 2", "q,a,c"),
    ]


@pytest.mark.parametrize("ending", ["", ".gz", ".zst"])
@pytest.mark.parametrize("kind", [".csv", ".tsv"])
def test_an_unclosed_quote_is_named_by_its_line_and_its_cell_is_not_held(
    kind: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / f"rows{kind}{ending}"
    separator = "," if kind == ".csv" else "\t"
    lines = ["a,b,c", 'x,"1""\n"",2",y', 'x,5" pipe,y', 'x,"1\n2","never closed', *["x,y,z"] * 50_000, ""]
    content = "\n".join(lines).replace(",", separator).encode()
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[ending](content))
    with pytest.raises(DataError, match=r"row 3 \(line 5\) is not .SV: unexpected end of data"):
        numbered_rows(path)
    monkeypatch.setattr(table_rows, "_MAX_CELL_LENGTH", 100_000)
    rows, error = rows_and_error(path)
    assert [number for number, _ in rows] == [1, 2]
    assert error == (
        f"{path} row 3 (line 6) has a cell of over 100000 characters; close the quote before it, or shorten it"
    )


def test_a_cell_may_have_64_mebi_characters_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    for size in (64 * 2**20, 64 * 2**20 + 1):
        path.write_bytes(b'a,b\n1,"' + b"x" * size + b'"\n')
        rows, error = rows_and_error(path)
        if size == 64 * 2**20:
            assert error is None and isinstance(rows[0][1], dict) and len(rows[0][1]["b"]) == size
        else:
            assert not rows and "row 1 (line 2) has a cell of over 67108864 characters" in str(error)


@pytest.mark.parametrize("end_of_line", ["\n", "\r\n", "\r"])
def test_tables_with_any_line_ends_are_read(end_of_line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(end_of_line.join(["a,b", *["1,2"] * 5000, f'"x{end_of_line}y",3', '4,"', ""]).encode())
    rows, error = rows_and_error(path)
    assert len(rows) == 5001 and rows[-1] == (5001, {"a": f"x{end_of_line}y", "b": "3"})
    assert "row 5002 (line 5004) is not CSV: unexpected end of data" in str(error)

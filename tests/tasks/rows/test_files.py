"""Files of every kind, whole and broken: rows are read back equal, and any bytes give rows or one clear error."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.data_files import COMPRESS, KINDS, encode, numbered_rows, read, read_error, rows_and_error, source
from support.loading import load_data

from configs.errors import DataError, FineTuneError
from configs.schema import DataConfig
from tasks.plan.resolve.data import resolve_data
from tasks.rows.readers import BadRow
from tasks.rows.sources import source_label

GOOD = '{"prompt": "q", "completion": "a"}'
GOOD_ROW = {"prompt": "q", "completion": "a"}
SECRET = "hunter2-secret"


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
tables = st.lists(texts.filter(str.strip), min_size=2, max_size=4, unique=True).flatmap(
    lambda columns: st.lists(st.fixed_dictionaries(dict.fromkeys(columns, texts)), min_size=1, max_size=5)
)


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", KINDS)
def test_any_rows_are_read_back_equal(kind: str, compression: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("rows") / f"rows{kind}{compression}"

    @settings(max_examples=60, deadline=None)
    @given(rows=tables)
    @example(rows=[{"a\u2028": "\r\n\t\x1c\u0085\"',;", "b": "\ufeff"}])
    def check(rows: list[dict[str, str]]) -> None:
        path.write_bytes(COMPRESS[compression](encode(kind, rows)))
        found = read(path)
        assert [row.record for row in found.rows] == rows and not found.failures
        assert [row.row for row in found.rows] == list(range(1, len(rows) + 1))
        assert {row.file for row in found.rows} == {path.name}

    check()


@pytest.mark.parametrize("compression", COMPRESS)
def test_text_files_are_read_back(compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows.txt{compression}"
    path.write_bytes(COMPRESS[compression]("\ufeffone\r\n\n  two\u2028three\nfour".encode()))
    assert [(row.row, row.record["text"]) for row in read(path).rows] == [
        (1, "one"),
        (3, "  two\u2028three"),
        (4, "four"),
    ]


def mutations(whole: bytes) -> st.SearchStrategy[bytes]:
    """Return a strategy of files like `whole` with some bytes changed, or cut short."""
    change = st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255))

    def changed(changes: list[tuple[int, int]], end: int) -> bytes:
        content = bytearray(whole)
        for place, byte in changes:
            content[place] = byte
        return bytes(content[:end])

    return st.builds(changed, st.lists(change, max_size=4), st.integers(0, len(whole)))


JSON_LIKE = st.text('{}[]",:\\u0dn 1e-NaIfity\n\ttrue\0é').map(str.encode)


@pytest.mark.parametrize("kind", [*KINDS, ".txt", ".jsonl.gz", ".csv.zst", ".json.gz", ".parquet.zst", "stream"])
def test_any_bytes_give_rows_or_one_clear_error(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    rows = [{"prompt": f"question {n}", "completion": SECRET} for n in range(3)]
    base, _, compression = kind[1:].partition(".")
    compress = COMPRESS[f".{compression}" if compression else ""]
    whole = compress(b"a\nb" if kind == ".txt" else encode("stream" if kind == "stream" else f".{base}", rows))
    path = tmp_path_factory.mktemp("bytes") / f"rows{'.arrow' if kind == 'stream' else kind}"

    @settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(content=st.binary() | mutations(whole) | JSON_LIKE | JSON_LIKE.map(compress) | st.binary().map(compress))
    def check(content: bytes) -> None:
        path.write_bytes(content)
        try:
            found = read(path)
        except FineTuneError as error:
            assert 1 <= len(str(error).splitlines()) <= 3
            assert SECRET not in str(error)
        else:
            assert found.rows or found.failures
            for failure in found.failures:
                assert "\n" not in failure.reason and SECRET not in failure.reason
                assert len(failure.value) <= 2000
                json.dumps(failure).encode()

    check()


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".tsv", ".txt"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}"
    rows = [{"text": "a", "more": "b"}]
    path.write_bytes(b"\xef\xbb\xbf" + (b"a\n" if kind == ".txt" else encode(kind, rows)))
    assert [row.record for row in read(path).rows] == [{"text": "a"} if kind == ".txt" else rows[0]]


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".txt"])
@pytest.mark.parametrize("compression", COMPRESS)
def test_an_error_of_encoding_names_file_line_and_byte(kind: str, compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}{compression}"
    path.write_bytes(COMPRESS[compression](b'{"a": 1}\n{"a": 2}\n{"a": "\xe9"}\n'))
    assert f"{path} line 3: byte 0xe9 is not UTF-8" in read_error(path)
    path.write_bytes(COMPRESS[compression](GOOD.encode("utf-16-le") * 3))
    assert f"{path} seems to be UTF-16" in read_error(path)
    path.write_bytes(COMPRESS[compression](GOOD.encode("utf-16")))
    assert f"{path} is UTF-16" in read_error(path)


def test_a_compressed_file_without_its_ending_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for ending in (".gz", ".zst"):
        path.write_bytes(COMPRESS[ending](GOOD.encode()))
        assert read_error(path) == f"{path} is compressed; add {ending} to its name"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_compressed_file_cut_short_gives_one_error(kind: str, compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}{compression}"
    content = COMPRESS[compression](encode(kind, [{"prompt": f"{n**5}", "completion": "a"} for n in range(300)]))
    path.write_bytes(content[: len(content) * 2 // 3])
    assert read_error(path) == f"{path} is cut short or damaged; copy it again"


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".txt"])
def test_one_row_of_many_megabytes_is_read_in_linear_time(kind: str, tmp_path: Path) -> None:
    def seconds(size: int) -> float:
        path = tmp_path / f"rows{kind}"
        text = 'é\\n "" ' * (size // 8)
        path.write_bytes(f"{text}\n".encode() if kind == ".txt" else encode(kind, [{"prompt": text, "completion": ""}]))
        start = time.process_time()
        (row,) = read(path).rows
        assert len(row.record["text" if kind == ".txt" else "prompt"]) == len(text)
        return time.process_time() - start

    # its escapes double a line of JSON, which has 64 MiB at most
    size = 30_000_000 if kind == ".jsonl" else 50_000_000
    # ten times the bytes take about ten times as long, and would take a hundred times as long at quadratic cost
    assert seconds(size) < 40 * max(seconds(size // 10), 0.02)


def test_a_directory_of_many_kinds_is_one_source_whose_rows_name_their_files(tmp_path: Path) -> None:
    for number, kind in enumerate(KINDS):
        for compression, compress in COMPRESS.items():
            path = tmp_path / "data" / str(number % 2) / f"part{kind}{compression}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(compress(encode(kind, [{**GOOD_ROW, "prompt": path.name}] * 2)))
    found = read(tmp_path / "data")
    assert source_label(source(tmp_path / "data")) == "data" and len(found.rows) == 2 * 18
    assert all(row.file == f"{row.file[0]}/{row.record['prompt']}" for row in found.rows)
    files = [row.file for row in found.rows[::2]]
    assert files == sorted(files) and [row.row for row in found.rows[:4]] == [1, 2, 1, 2]
    globbed = read(tmp_path / "data" / "0" / "*")
    assert source_label(source(tmp_path / "data" / "0" / "*")) == "*"
    assert [row.file for row in globbed.rows] == [f.file[2:] for f in found.rows[:18]]
    listed = (tmp_path / "data" / "0" / "part.jsonl", tmp_path / "data" / "1")
    assert source_label(source(*listed)) == "part.jsonl and 9 more" and len(read(*listed).rows) == 20


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".parquet", ".arrow", ".parquet.gz"])
def test_a_file_without_permission_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}"
    path.touch(0o000)
    assert rows_and_error(path) == ([], f"{path} cannot be read: Permission denied; check its permissions")


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".tsv", ".txt", ".parquet", ".arrow"])
def test_a_missing_file_or_a_directory_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}"
    assert rows_and_error(path) == ([], f"{path} does not exist; correct the path")
    path.mkdir()
    assert rows_and_error(path) == ([], f"{path} is not a regular file; copy its content into one")


@pytest.mark.parametrize("kind", [".csv", ".json", ".jsonl", ".txt"])
def test_a_byte_that_is_not_utf8_far_into_a_file_is_named_by_its_line(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}"
    row = {".csv": "1,é\n", ".json": '{"a": "é"},\n', ".jsonl": '{"a": "é"}\n', ".txt": "é\n"}[kind]
    first = {".csv": "a,b\n", ".json": "[\n"}.get(kind, "")
    path.write_bytes(first.encode() + row.encode() * 300_000 + b"\xe9\n")
    _, error = rows_and_error(path)
    assert str(error).startswith(f"{path} line {300_001 + bool(first)}: byte 0xe9 is not UTF-8\n")


def test_names_in_messages_are_short_and_on_one_line(tmp_path: Path) -> None:
    key = "secret\n" * 20
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{{{json.dumps(key)}: 1, {json.dumps(key)}: 2}}")
    ((_, row),) = numbered_rows(path)
    assert isinstance(row, BadRow) and row.reason == "names the key `" + r"secret\n" * 5 + "` twice"
    path = tmp_path / "rows.csv"
    path.write_text('"' + "x;" * 100 + '"\n1\n')
    assert rows_and_error(path)[1] == f"{path} line 1: cells are separated by ';'; save it with ',' between cells"


def test_files_and_directories_without_rows_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no file that ends in .jsonl" in read_error(tmp_path / "empty")
    for name in ("a.jsonl", "b.json.gz", "c.csv", "d.txt.zst"):
        (tmp_path / "empty" / name).write_bytes(COMPRESS["" if name.count(".") == 1 else f".{name.split('.')[2]}"](b""))
        assert "has no rows" in read_error(tmp_path / "empty" / name)
    assert f"{tmp_path / 'empty'} has no rows" in read_error(tmp_path / "empty")


def test_the_plan_and_the_data_stage_read_the_same_remote_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    rows = [{"prompt": f"q {n}", "completion": "a"} for n in range(20)]
    (tmp_path / "rows.jsonl.gz").write_bytes(gzip.compress(encode(".jsonl", rows)))
    fsspec.filesystem("memory").pipe("/rows/part.parquet", encode(".parquet", rows))
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(SimpleHTTPRequestHandler, directory=str(tmp_path)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        web = f"http://127.0.0.1:{server.server_port}/rows.jsonl.gz"
        config = DataConfig(sources=[{"path": web}, {"path": "memory://rows"}], deduplicate="none")
        local = resolve_data(DataConfig(sources=[{"path": str(tmp_path / "*.gz")}]), None).shards[0]
        assert resolve_data(config, None).shards[0].ranges[0].sha256 == local.ranges[0].sha256
        report = load_data(config).report
        assert [(count.source, count.kept) for count in report.sources] == [("rows.jsonl.gz", 20), ("part.parquet", 20)]
        missing: dict[str, Any] = {"path": web.replace("rows", "none")}
        with pytest.raises(
            DataError, match=r"data.sources\[0\].path=http://127.0.0.1:\d+/none.jsonl.gz does not exist"
        ):
            resolve_data(DataConfig(sources=[missing]), None)
    finally:
        server.shutdown()
        server.server_close()
        fsspec.filesystem("memory").rm("/rows", recursive=True)

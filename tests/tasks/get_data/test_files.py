"""Every kind of file, whole and broken: what was written is read back, and any bytes are rows or one clear error."""

from __future__ import annotations

import csv
import gzip
import io
import json
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from configs.errors import DataError, FineTuneError
from configs.schema import DataConfig, SourceConfig
from tasks.get_data.load import load_data
from tasks.get_data.sources import RawSource, read_source
from tasks.plan.data import resolve_sources

COMPRESS: dict[str, Callable[[bytes], bytes]] = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}
KINDS = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow")
GOOD = '{"prompt": "q", "completion": "a"}'
GOOD_ROW = {"prompt": "q", "completion": "a"}
SECRET = "hunter2-secret"


def read(*paths: Path | str) -> RawSource:
    names = [str(path) for path in paths]
    return read_source(SourceConfig(path=names if len(names) > 1 else names[0]), "revision", None)


def refused(*paths: Path | str) -> str:
    """Return the error that reading raises: one to three lines."""
    with pytest.raises(DataError) as caught:
        read(*paths)
    assert 1 <= len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


def encode(kind: str, rows: list[dict[str, str]]) -> bytes:
    if kind == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    if kind == ".json":
        return json.dumps(rows, indent=1).encode()
    if kind in (".csv", ".tsv"):
        file = io.StringIO(newline="")
        table = csv.DictWriter(
            file, list(rows[0]), delimiter="," if kind == ".csv" else "\t", quoting=csv.QUOTE_ALL, lineterminator="\n"
        )
        table.writeheader()
        table.writerows(rows)
        return file.getvalue().encode()
    return encode_table(kind, pa.Table.from_pylist(rows))


def encode_table(kind: str, table: pa.Table) -> bytes:
    sink = io.BytesIO()
    if kind == ".parquet":
        pq.write_table(table, sink)
    else:
        new = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
        with new(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


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
        source = read(path)
        assert [row.record for row in source.rows] == rows and not source.failures
        assert [row.row for row in source.rows] == list(range(1, len(rows) + 1))
        assert {row.file for row in source.rows} == {path.name}

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
    """Return whole files with some bytes changed, or cut."""
    change = st.tuples(st.integers(0, len(whole) - 1), st.integers(0, 255))

    def changed(changes: list[tuple[int, int]], end: int) -> bytes:
        content = bytearray(whole)
        for place, byte in changes:
            content[place] = byte
        return bytes(content[:end])

    return st.builds(changed, st.lists(change, max_size=4), st.integers(0, len(whole)))


JSON_LIKE = st.text('{}[]",:\\u0dn 1e-NaIfity\n\ttrue\0é').map(str.encode)


@pytest.mark.parametrize("kind", [*KINDS, ".txt", ".jsonl.gz", ".csv.zst", ".json.gz", ".parquet.zst", "stream"])
def test_any_bytes_are_rows_or_one_clear_error(kind: str, tmp_path_factory: pytest.TempPathFactory) -> None:
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
            source = read(path)
        except FineTuneError as error:
            assert 1 <= len(str(error).splitlines()) <= 3
            assert SECRET not in str(error)
        else:
            assert source.rows or source.failures
            for failure in source.failures:
                assert "\n" not in failure.reason and SECRET not in failure.reason
                failure.model_dump_json()

    check()


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"prompt": "q", "compl', "not JSON (Unterminated string starting at: character 17)"),
        ('{"prompt": "q"', "not JSON (Expecting ',' delimiter: character 15)"),
        ('{"prompt": "a\0b"}', "holds a NUL byte"),
        ("\0" * 10, "holds a NUL byte"),
        (r'{"prompt": "a\u0000b"}', "holds a NUL byte"),
        (r'{"prompt": "a\ud800b"}', r"holds a lone surrogate (\ud800), which is not text"),
        (r'{"a\udfff": ["b"]}', r"holds a lone surrogate (\udfff), which is not text"),
        (r'{"a": [{"b": "\uDC00"}]}', r"holds a lone surrogate (\udc00), which is not text"),
        ('{"prompt": "q", "x": 1, "x": 2}', "names the key `x` twice"),
        ('{"messages": [{"role": "user", "role": "user"}]}', "names the key `role` twice"),
        ('{"a\\n": 1, "a\\n": 2}', "names the key `a\\n` twice"),
        ('{"prompt": NaN}', "holds NaN, which is not JSON"),
        ('{"prompt": [Infinity]}', "holds Infinity, which is not JSON"),
        ('{"prompt": -Infinity}', "holds -Infinity, which is not JSON"),
        ("NaN", "holds NaN, which is not JSON"),
        ('{"n": ' + "1" * 5000 + "}", "holds a number of 5000 digits"),
        ('{"n": ' + "[" * 100_000 + "]" * 100_000 + "}", "not JSON: nested too deeply"),
        ("[1]", "a JSON list, not an object"),
    ],
)
def test_a_bad_line_is_quarantined_with_its_reason_and_the_others_are_read(
    line: str, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join([GOOD, line, GOOD, *[line] * 2]))
    source = read(path)
    assert [row.row for row in source.rows] == [1, 3]
    assert [(f.file, f.row, f.column, f.reason) for f in source.failures] == [
        ("rows.jsonl", n, "(row)", reason) for n in (2, 4, 5)
    ]
    assert {f.value for f in source.failures} == {line[:2000]}
    # the same entry in a list; where it is not JSON at all, nothing tells where the next one begins
    path = tmp_path / "rows.json"
    path.write_text(f"[{GOOD}, \n {line}, {GOOD}]")
    if reason.startswith("not JSON") or line.startswith("\0"):
        assert "rows.json line 2 is not JSON" in refused(path) or "record 2 is nested too deeply" in refused(path)
    else:
        source = read(path)
        assert [row.row for row in source.rows] == [1, 3]
        assert [(f.row, f.reason) for f in source.failures] == [(2, reason)]


def test_whole_surrogate_pairs_and_other_escapes_are_text(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(r'{"prompt": "\ud83d\ude00 \u00e9 \\ud800"}')
    assert read(path).rows[0].record == {"prompt": "😀 é \\ud800"}


def test_a_quarantined_value_is_cut_at_2000_characters(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("x" * 5000)
    assert read(path).failures[0].value == "x" * 2000


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".tsv", ".txt"])
def test_a_byte_order_mark_is_no_part_of_the_first_row(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}"
    rows = [{"text": "a", "more": "b"}]
    path.write_bytes(b"\xef\xbb\xbf" + (b"a\n" if kind == ".txt" else encode(kind, rows)))
    assert [row.record for row in read(path).rows] == [{"text": "a"} if kind == ".txt" else rows[0]]


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".txt"])
@pytest.mark.parametrize("compression", COMPRESS)
def test_another_encoding_names_file_line_and_byte(kind: str, compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}{compression}"
    path.write_bytes(COMPRESS[compression](b'{"a": 1}\n{"a": 2}\n{"a": "\xe9"}\n'))
    assert f"{path} line 3: byte 0xe9 is not UTF-8" in refused(path)
    path.write_bytes(COMPRESS[compression](GOOD.encode("utf-16-le") * 3))
    assert f"{path} seems to be UTF-16" in refused(path)
    path.write_bytes(COMPRESS[compression](GOOD.encode("utf-16")))
    assert f"{path} is UTF-16" in refused(path)


def test_a_compressed_file_without_its_ending_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for ending in (".gz", ".zst"):
        path.write_bytes(COMPRESS[ending](GOOD.encode()))
        assert refused(path) == f"{path} is compressed; add {ending} to its name"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("compression", [".gz", ".zst"])
def test_a_compressed_file_cut_short_is_one_error(kind: str, compression: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}{compression}"
    content = COMPRESS[compression](encode(kind, [{"prompt": f"{n**5}", "completion": "a"} for n in range(300)]))
    path.write_bytes(content[: len(content) * 2 // 3])
    assert refused(path) == f"{path} is cut short or damaged; copy it again"


@pytest.mark.parametrize(
    ("kind", "content", "words"),
    [
        (".csv", 'a,b\n"1","2"\n"x" y,3\n', "row 2 (line 3) is not CSV: ',' expected after '\"'; repair its quotes"),
        (".csv", 'a,b\n"1\n1","2"\n1,"3\n4\n5\n6\n', "row 2 (line 4) is not CSV: unexpected end of data"),
        (".tsv", 'a\tb\n"1"\t"2"\n"x" y\t3\n', "row 2 (line 3) is not TSV"),
        (".tsv", 'a\tb\n1\t"2\n', "row 1 (line 2) is not TSV: unexpected end of data"),
        (".tsv", "a,b\n1,2\n", "line 1: cells are separated by ','; save it with '\\t' between cells"),
        (".csv", "a\tb\n1\t2\n", "line 1: cells are separated by '\\t'; save it with ',' between cells"),
        (".csv", "a,\n1,2\n", "empty or repeated column name"),
    ],
)
def test_a_broken_table_names_file_and_line(kind: str, content: str, words: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{kind}"
    path.write_text(content)
    assert refused(path).startswith(f"{path} ") and words in refused(path)


def test_rows_of_a_table_with_a_nul_or_other_cells_are_quarantined(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text('prompt,completion\nq,"a\nb"\nq,a\0b\nq,a,c\n\nq,d\n')
    source = read(path)
    assert [(row.row, row.record["completion"]) for row in source.rows] == [(1, "a\nb"), (5, "d")]
    assert [(f.row, f.reason, f.value) for f in source.failures] == [
        (2, "holds a NUL byte", "q,a\0b"),
        (3, "3 cells where the header has 2", "q,a,c"),
    ]


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".txt"])
def test_one_row_of_50_megabytes_is_read_in_linear_time(kind: str, tmp_path: Path) -> None:
    def seconds(size: int) -> float:
        path = tmp_path / f"rows{kind}"
        text = 'é\\n "" ' * (size // 8)
        path.write_bytes(f"{text}\n".encode() if kind == ".txt" else encode(kind, [{"prompt": text, "completion": ""}]))
        start = time.process_time()
        (row,) = read(path).rows
        assert len(row.record["text" if kind == ".txt" else "prompt"]) == len(text) - (kind == ".txt" and 0)
        return time.process_time() - start

    # ten times the bytes take about ten times as long; if the cost were quadratic, a hundred times
    assert seconds(50_000_000) < 40 * max(seconds(5_000_000), 0.02)


def test_many_rows_after_one_broken_line_are_read_in_linear_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("\n".join(["{", *[GOOD] * 50_000, '{"x'] * 2))
    start = time.process_time()
    source = read(path)
    assert (len(source.rows), len(source.failures)) == (100_000, 4)
    assert time.process_time() - start < 20


@pytest.mark.parametrize("kind", [".parquet", ".arrow", "stream"])
def test_lists_and_structs_are_lists_and_dicts_whatever_the_width_of_the_type(kind: str, tmp_path: Path) -> None:
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


def test_row_numbers_go_on_over_batches(tmp_path: Path) -> None:
    table = pa.table({"text": [str(n) for n in range(10_000)]})
    (tmp_path / "rows.parquet").write_bytes(encode_table(".parquet", table))
    assert all(row.record["text"] == str(row.row - 1) for row in read(tmp_path / "rows.parquet").rows)


@pytest.mark.parametrize("kind", [".parquet", ".arrow", "stream"])
def test_a_damaged_table_is_one_error(kind: str, tmp_path: Path) -> None:
    path = tmp_path / f"rows{'.arrow' if kind == 'stream' else kind}"
    name = "Parquet" if kind == ".parquet" else "Arrow"
    whole = encode_table(kind, pa.table({"text": [f"row {n}" for n in range(500)]}))
    for content in (whole[: len(whole) // 2], whole[:200], b"PAR1 nonsense", b"ARROW1 nonsense", b"x"):
        path.write_bytes(content)
        assert f"{path} is not a whole {name} file" in refused(path)
    path.write_bytes(encode_table(kind, pa.table([["a"], ["b"]], names=["x", "x"])))
    assert "two columns of one name" in refused(path)
    not_utf8 = pa.Array.from_buffers(pa.string(), 1, pa.array([b"\xff\xfe"]).buffers())
    path.write_bytes(encode_table(kind, pa.table({"text": not_utf8})))
    assert f"{path} is not a whole {name} file, or has values that Python does not" in refused(path)


def test_a_nul_in_a_table_of_types_is_quarantined(tmp_path: Path) -> None:
    (tmp_path / "rows.arrow").write_bytes(encode_table("stream", pa.table({"text": ["a", "b\0", "c"]})))
    source = read(tmp_path / "rows.arrow")
    assert [row.row for row in source.rows] == [1, 3]
    assert [(f.row, f.reason) for f in source.failures] == [(2, "holds a NUL byte")]


def test_a_directory_of_many_kinds_is_one_source_whose_rows_name_their_files(tmp_path: Path) -> None:
    for number, kind in enumerate(KINDS):
        for compression, compress in COMPRESS.items():
            path = tmp_path / "data" / str(number % 2) / f"part{kind}{compression}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(compress(encode(kind, [{**GOOD_ROW, "prompt": path.name}] * 2)))
    source = read(tmp_path / "data")
    assert source.label == "data" and len(source.rows) == 2 * 18
    assert all(row.file == f"{row.file[0]}/{row.record['prompt']}" for row in source.rows)
    files = [row.file for row in source.rows[::2]]
    assert files == sorted(files) and [row.row for row in source.rows[:4]] == [1, 2, 1, 2]
    globbed = read(tmp_path / "data" / "0" / "*")
    assert globbed.label == "*" and [row.file for row in globbed.rows] == [f.file[2:] for f in source.rows[:18]]
    listed = read(tmp_path / "data" / "0" / "part.jsonl", tmp_path / "data" / "1")
    assert listed.label == "part.jsonl and 9 more" and len(listed.rows) == 20


def test_places_without_rows_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "has no file that ends in .jsonl" in refused(tmp_path / "empty")
    for name in ("a.jsonl", "b.json.gz", "c.csv", "d.txt.zst"):
        (tmp_path / "empty" / name).write_bytes(COMPRESS["" if name.count(".") == 1 else f".{name.split('.')[2]}"](b""))
        assert "has no rows" in refused(tmp_path / "empty" / name)
    assert f"{tmp_path / 'empty'} has no rows" in refused(tmp_path / "empty")


def test_one_object_is_not_a_list_of_rows(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text(json.dumps({"version": 1, "da\nta": [GOOD_ROW]}, indent=1))
    assert f"{path} is one JSON object (with version, da\\nta), not a list" in refused(path)


def test_the_plan_and_the_loading_agree_on_a_web_address_and_on_memory(
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
        revisions = resolve_sources(config, None)
        assert revisions[0] == resolve_sources(DataConfig(sources=[{"path": str(tmp_path / "*.gz")}]), None)[0]
        report = load_data(config, revisions, None).report
        assert [(count.source, count.kept) for count in report.sources] == [("rows.jsonl.gz", 20), ("part.parquet", 20)]
        gone: dict[str, Any] = {"path": web.replace("rows", "none")}
        with pytest.raises(
            DataError, match=r"data.sources\[0\].path=http://127.0.0.1:\d+/none.jsonl.gz does not exist"
        ):
            resolve_sources(DataConfig(sources=[gone]), None)
    finally:
        server.shutdown()
        server.server_close()
        fsspec.filesystem("memory").rm("/rows", recursive=True)

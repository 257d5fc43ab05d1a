"""A file read in byte ranges gives the same rows, numbers and bytes as the whole file, wherever it is cut."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.data_files import encode_table, numbered_rows, rows_and_error

from configs.errors import DataError
from tasks.files.places import DataFile, is_splittable
from tasks.files.streams import open_lines, range_digest
from tasks.rows.readers import Row, read_rows

CONTENT = b'{"a": 1}\n\n{"a": "\xc3\xa9"}\r\n{"a"\n{"a": 4}'


def rows(path: Path | str, start: int = 0, end: int | None = None) -> list[tuple[int, Row]]:
    return list(read_rows(DataFile(str(path), "rows"), start, end))


def rows_and_error_of_ranges(path: str, cuts: list[int]) -> tuple[list[tuple[int, Row]], str | None]:
    """Return the rows of all ranges with their numbers in the file, up to an error, and that error."""
    found: list[tuple[int, Row]] = []
    lines_before = 0
    try:
        for start, end in zip([0, *cuts], [*cuts, None], strict=True):
            for number, row in read_rows(DataFile(path, "rows"), start, end):
                found.append((lines_before + number, row))
            lines_before += range_digest(path, start, end)[1]
    except DataError as error:
        return found, str(error)
    return found, None


lines = st.lists(st.binary(max_size=12) | st.sampled_from([b"", b" ", b'{"a": 1}', b'{"a": "\xf0\x9f\x98\x80"}']))
contents = st.tuples(
    st.sampled_from([b"", b"\xef\xbb\xbf"]), lines.map(b"\n".join), st.sampled_from([b"", b"\n", b"\r\n"])
).map(b"".join)


@pytest.mark.parametrize("kind", [".jsonl", ".txt"])
@pytest.mark.parametrize("place", ["local", "memory"])
def test_adjacent_ranges_give_the_rows_of_the_whole_file(
    kind: str, place: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = str(tmp_path_factory.mktemp("rows") / f"rows{kind}") if place == "local" else f"memory://cut/rows{kind}"

    @settings(max_examples=300, deadline=None)
    @given(content=contents, data=st.data())
    @example(content=CONTENT, data=None)
    def check(content: bytes, data: st.DataObject | None) -> None:
        with fsspec.open(path, "wb") as file:
            file.write(content)
        every_byte = list(range(1, len(content)))
        cuts = sorted(data.draw(st.sets(st.sampled_from(every_byte)))) if data and every_byte else every_byte
        assert rows_and_error_of_ranges(path, cuts) == rows_and_error_of_ranges(path, [])
        ranges = list(zip([0, *cuts], [*cuts, None], strict=True))
        pieces = [open_lines(path, start, end).read() for start, end in ranges]
        assert b"".join(pieces) == content
        for piece, (start, end) in zip(pieces, ranges, strict=True):
            num_lines = piece.count(b"\n") + (piece[-1:] not in (b"", b"\n"))
            assert range_digest(path, start, end) == (hashlib.sha256(piece).hexdigest(), num_lines)

    check()


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        (0, None, b"one\ntwo\n\nfour"),
        (0, 1, b"one\n"),  # a line that ends after the range is read whole
        (0, 4, b"one\n"),  # `two` begins at byte 4
        (0, 5, b"one\ntwo\n"),
        (4, 8, b"two\n"),  # begins at the first byte of the range
        (5, 8, b""),
        (5, 9, b"\n"),  # a blank line is a line
        (8, 9, b"\n"),
        (9, 10, b"four"),
        (10, 13, b""),
        (13, None, b""),
        (99, None, b""),
        (0, 99, b"one\ntwo\n\nfour"),
        (4, 4, b""),
        (0, 0, b""),
    ],
)
def test_a_line_belongs_to_the_range_in_which_it_begins(
    start: int, end: int | None, expected: bytes, tmp_path: Path
) -> None:
    path = tmp_path / "rows.txt"
    path.write_bytes(b"one\ntwo\n\nfour")
    with contextlib.closing(open_lines(str(path), start, end)) as stream:
        assert stream.read() == expected


def test_row_numbers_count_the_lines_of_a_range_and_blank_ones_too(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(CONTENT)
    assert [number for number, _ in rows(path)] == [1, 3, 4, 5]
    # the second line, which is blank, begins at byte 9
    assert [number for number, _ in rows(path, 9)] == [2, 3, 4]
    assert [number for number, _ in rows(path, 8)] == [2, 3, 4]
    assert [number for number, _ in rows(path, 10)] == [1, 2, 3]


def test_lines_longer_than_a_read_block_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "rows.txt"
    long = "é" * 2_000_000
    path.write_text(f"a\n{long}\nb\n")
    size = path.stat().st_size
    assert [row["text"] for _, row in rows(path, 1, 3)] == [long]
    assert rows(path, 3, size - 2) == []
    assert [row["text"] for _, row in rows(path, 1_500_001)] == ["b"]
    assert range_digest(str(path), 1, 3) == (hashlib.sha256(f"{long}\n".encode()).hexdigest(), 1)


def test_an_error_in_a_range_names_the_line_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"{}\n" * 10 + b'{"a": "\xe9"}\n')
    with pytest.raises(DataError, match="line 11: byte 0xe9 is not UTF-8"):
        rows(path, 14)


def test_the_first_range_names_another_encoding_however_short_it_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for content, message in (
        ('{"a": 1}\n'.encode("utf-16"), "is UTF-16"),
        ('{"a": 1}\n'.encode("utf-16-le"), "seems to be UTF-16"),
        (b"\x1f\x8b\x08\n", "is compressed; add .gz"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=re.escape(message)):
            rows(path, 0, 1)


@pytest.mark.parametrize("name", ["a.jsonl.gz", "a.txt.zst", "a.json", "a.csv", "a.tsv", "a.parquet", "a.arrow"])
def test_only_uncompressed_files_of_lines_have_ranges(name: str, tmp_path: Path) -> None:
    assert not is_splittable(name)
    assert is_splittable("A.JSONL") and is_splittable("s3://b/a.txt")
    with pytest.raises(AssertionError):
        read_rows(DataFile(name, name), 1)


def test_a_range_is_hashed_at_the_speed_of_hashing(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"prompt": "%s"}\n' % (b"x" * 300) * 300_000)
    start = time.process_time()
    range_digest(str(path), 1000, path.stat().st_size - 1000)
    whole = time.process_time() - start
    content = path.read_bytes()
    start = time.process_time()
    hashlib.sha256(content).digest()
    # 500 MB/s besides hashing, and a factor of 2 because the machine may have other work
    assert whole - (time.process_time() - start) < 2 * len(content) / 500e6


class _Server(BaseHTTPRequestHandler):
    """Serves `content`, in ranges where `has_ranges`, and counts the bytes that it sent."""

    content = b""
    has_ranges = True
    sent = 0

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()

    def do_GET(self) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")) if self.has_ranges else None
        start, end = (int(wanted[1]), int(wanted[2] or len(self.content) - 1) + 1) if wanted else (0, None)
        body = self.content[start:end]
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{start + len(body) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        with contextlib.suppress(OSError):
            self.wfile.write(body)
            type(self).sent += len(body)

    def log_message(self, *arguments: object) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_web_file_is_read_in_ranges_even_if_its_server_does_not_serve_ranges(
    has_ranges: bool, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"".join(json.dumps({"n": n, "text": "x" * 1000}).encode() + b"\n" for n in range(30_000))
    monkeypatch.setattr(_Server, "content", content)
    monkeypatch.setattr(_Server, "has_ranges", has_ranges)
    monkeypatch.setattr(_Server, "sent", 0)
    path = f"{address}/rows.jsonl?key=secret"
    middle = len(content) // 2
    numbers = [row["n"] for _, row in rows(path, middle, middle + 1_000_000)]
    first = content[:middle].count(b"\n") + 1
    # lines of 1025 bytes
    assert numbers == list(range(first, first + len(numbers))) and len(numbers) in (975, 976)
    if has_ranges:
        assert _Server.sent < middle
    assert len(rows(path, 0, 1_000_000)) + len(rows(path, 1_000_000)) == 30_000


@pytest.mark.parametrize("kind", [".parquet", ".arrow", "stream"])
@pytest.mark.parametrize("has_ranges", [True, False])
def test_a_web_table_is_read_even_if_its_server_does_not_serve_ranges(
    kind: str, has_ranges: bool, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = encode_table(kind, pa.table({"n": list(range(10_000))}))
    monkeypatch.setattr(_Server, "content", content)
    monkeypatch.setattr(_Server, "has_ranges", has_ranges)
    path = f"{address}/rows{'.arrow' if kind == 'stream' else kind}"
    assert [row["n"] for _, row in numbered_rows(path)] == list(range(10_000))
    monkeypatch.setattr(_Server, "content", content[:-100])
    _, error = rows_and_error(f"{path}?key=secret")
    assert error is not None and error.startswith(f"{path} is not a whole")

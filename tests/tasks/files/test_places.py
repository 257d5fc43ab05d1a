"""Which files paths, globs, directories and addresses stand for, and how their bytes are read, even if damaged."""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import tempfile
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from configs.errors import DataError
from configs.schema import SourceConfig
from tasks.files.places import FILE_ENDINGS, file_kind, find_files
from tasks.files.streams import open_bytes, open_raw
from tasks.rows.sources import source_label


def read_bytes(path: str) -> bytes:
    """Return the whole content, decompressed."""
    with contextlib.closing(open_bytes(path)) as stream:
        return stream.read()


def fill(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(name.encode())
    return folder


def names(path: str | list[str]) -> list[str]:
    return [file.name for file in find_files(path)]


def paths(path: str | list[str]) -> list[str]:
    return [file.path for file in find_files(path)]


def refused(path: str | list[str]) -> str:
    with pytest.raises(DataError) as caught:
        for file in paths(path):
            read_bytes(file)
    assert 1 <= len(str(caught.value).splitlines()) <= 3
    return str(caught.value)


@pytest.fixture
def memory() -> Iterator[Any]:
    """fsspec's in-memory file system, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    system.pseudo_dirs[:] = [""]
    yield system
    system.store.clear()


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if "/forbidden/" in self.path:
            self.send_error(403)
            return
        if "/cut/" not in self.path:
            super().do_GET()
            return
        # the connection breaks in the middle of the answer
        self.send_response(200)
        self.send_header("Content-Length", "1000")
        self.end_headers()
        self.wfile.write(b'{"prompt": "q"')
        self.close_connection = True


@pytest.fixture
def web(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """A web server on loopback: its address, and the folder that it serves."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "web"
    folder.mkdir()
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Handler, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", folder
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_path_of_a_file_stands_for_that_file(tmp_path: Path) -> None:
    path = str(fill(tmp_path, "rows.jsonl") / "rows.jsonl")
    assert paths(path) == paths(f"file://{path}") == [path]
    assert names(path) == ["rows.jsonl"]


def test_a_directory_stands_for_its_files_of_known_endings_sorted_and_recursive(tmp_path: Path) -> None:
    fill(tmp_path, "b.jsonl", "a/c.csv.gz", "a.TXT", "README.md", ".hidden.jsonl", ".git/x.json", "a/rows.zst")
    assert names(str(tmp_path)) == ["a.TXT", "a/c.csv.gz", "b.jsonl"]
    assert paths(str(tmp_path)) == [str(tmp_path / name) for name in ("a.TXT", "a/c.csv.gz", "b.jsonl")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "b.jsonl", "x/y/c.jsonl"]),
        ("*/*/*.jsonl", ["x/y/c.jsonl"]),
        ("x/*/c.jsonl", ["y/c.jsonl"]),
        ("[ab].jsonl", ["a.jsonl", "b.jsonl"]),
        ("*", ["a.jsonl", "b.jsonl"]),
        ("**.jsonl", ["a.jsonl", "b.jsonl"]),
    ],
)
def test_file_names_of_a_glob_start_after_its_fixed_folder(pattern: str, expected: list[str], tmp_path: Path) -> None:
    fill(tmp_path, "b.jsonl", "a.jsonl", "x/y/c.jsonl", "z.md")
    assert names(str(tmp_path / pattern)) == expected


def test_a_file_name_with_wildcards_stands_for_that_file(tmp_path: Path) -> None:
    fill(tmp_path, "rows[1].jsonl", "rows1.jsonl")
    assert names(str(tmp_path / "rows[1].jsonl")) == ["rows[1].jsonl"]


def test_a_relative_glob_and_a_path_in_the_home_directory_are_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(tmp_path, "x/a.jsonl")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert paths("*/*.jsonl") == ["x/a.jsonl"]
    assert paths("~/x/a.jsonl") == [str(tmp_path / "x" / "a.jsonl")]


def test_a_list_keeps_its_order_and_takes_each_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(tmp_path, "b.jsonl", "a.jsonl", "c.csv")
    monkeypatch.chdir(tmp_path)
    assert names(["c.csv", "*.jsonl", "a.jsonl", str(tmp_path)]) == ["c.csv", "a.jsonl", "b.jsonl"]


def test_files_with_the_same_name_get_distinct_names(tmp_path: Path) -> None:
    fill(tmp_path, "x/a/rows.jsonl", "x/b/rows.jsonl", "x/b/other.jsonl")
    places = [str(tmp_path / "x" / name) for name in ("a/rows.jsonl", "b")]
    assert names(places) == ["a/rows.jsonl", "other.jsonl", "b/rows.jsonl"]


def test_an_error_for_a_place_without_files_names_it_and_the_endings(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    fill(tmp_path, "rows.docx")
    for place in (tmp_path / "empty", tmp_path, tmp_path / "*.jsonl", tmp_path / "*.docx"):
        message = refused(str(place))
        assert message.startswith(f"{place} has no file that ends in .jsonl") and ".zst" in message
    assert "ends in none of .jsonl" in refused(str(tmp_path / "rows.docx"))
    assert "none.jsonl does not exist" in refused(str(tmp_path / "none.jsonl"))
    assert "does not exist" in refused(str(tmp_path / "rows.docx" / "x.jsonl"))


def test_a_path_that_is_not_a_regular_file_is_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    assert "is not a regular file" in refused(str(tmp_path / "pipe.jsonl"))
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nothing")
    assert "gone.jsonl does not exist" in refused([str(tmp_path / "gone.jsonl")])
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "gone.jsonl").symlink_to(tmp_path / "nothing")
    assert "x/gone.jsonl does not exist" in refused(str(tmp_path / "x"))
    assert "cannot be read" in refused(str(tmp_path / ("n" * 300 + ".jsonl")))
    assert "does not exist" in refused("a\0b.jsonl")


@pytest.fixture
def ordinary_user() -> Iterator[Path]:
    """A folder, while this process has the rights of an ordinary user, since root can read everything."""
    with tempfile.TemporaryDirectory() as folder:
        user = os.geteuid()
        Path(folder).chmod(0o755)
        if user == 0:
            os.chown(folder, 65534, 65534)
            os.seteuid(65534)
        yield Path(folder)
        os.seteuid(user)


def test_an_unreadable_path_is_named(ordinary_user: Path) -> None:
    folder = fill(ordinary_user, "x/y/rows.jsonl") / "x"
    file = folder / "y" / "rows.jsonl"
    file.chmod(0)
    assert refused(str(file)) == f"{file} cannot be read: Permission denied; check its permissions"
    (folder / "y").chmod(0)
    try:
        for place in (file, folder / "y", folder, folder / "y" / "*.jsonl" / "x.jsonl"):
            assert refused(str(place)) == f"{place} cannot be read: Permission denied; check its permissions"
    finally:
        (folder / "y").chmod(0o700)


def test_an_error_of_the_disk_names_the_file(tmp_path: Path) -> None:
    # the first page of a process's memory is not mapped: reading it fails like a bad sector
    (tmp_path / "rows.jsonl").symlink_to("/proc/self/mem")
    assert "rows.jsonl cannot be read: Input/output error" in refused(str(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize("kind", [ending for ending in FILE_ENDINGS if ending not in (".ndjson", ".jsonlines")])
def test_the_kind_is_the_ending_without_the_compression(kind: str) -> None:
    for path in (f"a/b{kind}", f"b.c{kind}.gz", f"s3://b/x{kind.upper()}.ZST", f"https://h/x{kind}.gz?key=a.b#c"):
        assert file_kind(path) == kind


@pytest.mark.parametrize(
    "path", ["rows", "rows.gz", "rows.jsonl.bz2", ".jsonl", "rows.jsonl.gz.gz", "https://h/?x.csv"]
)
def test_other_endings_are_refused(path: str) -> None:
    with pytest.raises(DataError, match="ends in none of"):
        file_kind(path)


@given(pieces=st.lists(st.binary(max_size=3000), min_size=1, max_size=4), repeats=st.integers(1, 400))
def test_compressed_files_are_read_back(pieces: list[bytes], repeats: int, tmp_path_factory: Any) -> None:
    """Several pieces become several gzip members or zstd frames, as `cat a.gz b.gz` makes them."""
    pieces = [piece * repeats for piece in pieces]
    folder = tmp_path_factory.getbasetemp()
    for ending, compress in ((".gz", gzip.compress), (".zst", zstandard.ZstdCompressor().compress), ("", bytes)):
        path = folder / f"rows.jsonl{ending}"
        path.write_bytes(b"".join(compress(piece) for piece in pieces))
        assert read_bytes(str(path)) == b"".join(pieces)
        with open_bytes(str(path)) as stream:
            assert stream.readlines() == b"".join(pieces).splitlines(keepends=True) or b"\r" in b"".join(pieces)
        with open_raw(str(path)) as stream:
            assert stream.read() == path.read_bytes()


@pytest.mark.parametrize("content", [b'{"text": "plain"}\n', gzip.compress(b"1", mtime=0) + b"more"])
def test_a_file_that_is_not_gzip_has_another_error_than_a_damaged_one(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(content)
    assert refused(str(path)) == (
        f"{path} is not gzip, or has other bytes after it; correct its ending or compress it again"
    )


@pytest.mark.parametrize(("ending", "compress"), [(".gz", gzip.compress), (".zst", zstandard.compress)])
def test_a_compressed_file_cut_anywhere_or_damaged_is_an_error(ending: str, compress: Any, tmp_path: Path) -> None:
    # random letters: one repeated letter would compress to a single block
    content = compress(bytes(random.Random(0).choices(b"abcdef\n", k=3000)))
    path = tmp_path / f"rows.jsonl{ending}"
    # cuts begin after the bytes that mark the format: two for gzip
    for end in (*range(2 if ending == ".gz" else 1, 40), *range(40, len(content), 37), len(content) - 1):
        path.write_bytes(content[:end])
        assert refused(str(path)) == f"{path} is cut short or damaged; copy it again"
    if ending == ".zst":
        path.write_bytes(b'{"prompt": "not compressed"}\n')
        assert "is cut short or damaged" in refused(str(path))


def test_a_long_zstd_window_is_read(tmp_path: Path) -> None:
    settings = zstandard.ZstdCompressionParameters(window_log=28)
    path = tmp_path / "rows.txt.zst"
    compressor = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    path.write_bytes(compressor.compress(b"x" * 1000) + compressor.flush())
    assert read_bytes(str(path)) == b"x" * 1000


def test_remote_files_directories_and_globs_are_found(memory: Any) -> None:
    for name in ("b.jsonl", "a.csv.gz", "x/c.jsonl", "x/.hidden/d.jsonl", "notes.md"):
        memory.pipe(f"/data/{name}", gzip.compress(b"1") if name.endswith(".gz") else name.encode())
    assert names("memory://data") == names("memory://data/") == ["a.csv.gz", "b.jsonl", "x/c.jsonl"]
    assert names("memory://data/**/*.jsonl") == ["b.jsonl", "x/c.jsonl"]
    assert "`**` must stand alone" in refused("memory://data/**.jsonl")
    assert names("memory://data/x/c.jsonl") == ["c.jsonl"]
    assert read_bytes("memory://data/a.csv.gz") == b"1"
    assert [read_bytes(path) for path in paths(["memory://data/x", "memory://data/b.jsonl"])] == [
        b"x/c.jsonl",
        b"b.jsonl",
    ]
    assert names(["memory://data/x/c.jsonl", "memory://data/x"]) == ["c.jsonl"]


def test_an_error_for_a_remote_place_without_files_names_it(memory: Any) -> None:
    memory.pipe("/data/rows.docx", b"x")
    assert refused("memory://none/rows.jsonl").startswith("memory://none/rows.jsonl does not exist")
    assert "has no file that ends in .jsonl" in refused("memory://data")
    assert "has no file that ends in .jsonl" in refused("memory://data/*.jsonl")
    assert "ends in none of .jsonl" in refused("memory://data/rows.docx")
    assert "cannot be read (ValueError); check the address" in refused("nothing://user:secret@place/rows.jsonl")
    assert "secret" not in refused("nothing://user:secret@place/rows.jsonl")


def test_a_web_address_is_read(web: tuple[str, Path]) -> None:
    address, folder = web
    fill(folder, "my rows.jsonl")
    (folder / "big.csv.gz").write_bytes(gzip.compress(os.urandom(3_000_000)))
    (folder / "empty.jsonl").write_bytes(b"")
    url = f"{address}/my%20rows.jsonl?token=secret"
    assert paths(url) == [url] and names(url) == ["my rows.jsonl"]
    assert read_bytes(url) == b"my rows.jsonl"
    assert read_bytes(f"{address}/empty.jsonl") == b""
    with open_raw(f"{address}/big.csv.gz") as stream:
        assert stream.read() == (folder / "big.csv.gz").read_bytes()
    assert len(read_bytes(f"{address}/big.csv.gz")) == 3_000_000


def test_an_error_for_a_web_address_names_it_without_its_key(web: tuple[str, Path]) -> None:
    address, _ = web
    assert refused(f"{address}/none.jsonl?token=secret").startswith(f"{address}/none.jsonl does not exist")
    assert "name each of them" in refused(f"{address}/*.jsonl")
    assert "ends in none of" in refused(f"{address}/")
    assert "(the server answered 403)" in refused(f"{address}/forbidden/rows.jsonl")
    for place in (f"{address}/cut/rows.jsonl?token=secret", "http://127.0.0.1:9/rows.jsonl?token=secret"):
        message = refused(place)
        assert "cannot be read (" in message and "the network" in message and "secret" not in message


def test_names_of_files_at_addresses_hold_no_secret() -> None:
    assert names(["https://me:a/b@h1/x.csv?k=1", "https://me:pw@h2/x.csv?k=2"]) == ["h1/x.csv", "h2/x.csv"]
    assert names(["https://me:pw@h/x.csv", "https://you:pw@h/x.csv?k=2"]) == ["x.csv (1)", "x.csv (2)"]
    assert file_kind("s3://bucket/x.csv?versionId=1") == ".csv"


def test_the_name_of_a_source_holds_no_secret() -> None:
    address = "https://me:pw@h/a/x.csv?k=1/2"
    assert source_label(SourceConfig(path=address)) == "x.csv"
    assert source_label(SourceConfig(path=[address, "https://me:pw@h/y.csv"])) == "x.csv and 1 more"


@pytest.mark.parametrize("path", ["rows.jsonl", ["a.jsonl", "data/*.csv"], "embedded:english-to-sql:20"])
def test_a_source_takes_a_path_or_a_list(path: str | list[str]) -> None:
    assert SourceConfig(path=path).path == path


@pytest.mark.parametrize("path", ["", " ", [], [""], 3, [3], {"a": 1}, ["a.jsonl", "embedded:english-to-sql"]])
def test_a_source_takes_nothing_else(path: Any) -> None:
    with pytest.raises(ValueError, match="1 validation error"):
        SourceConfig(path=path)


def test_a_stream_can_be_closed_before_its_end(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"a\nb\n")
    with contextlib.closing(open_bytes(str(path))) as stream:
        assert stream.readline() == b"a\n"
    assert stream.closed

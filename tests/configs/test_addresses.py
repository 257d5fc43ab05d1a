"""What is shown and published of an address: its place, and nothing that opens it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from configs.addresses import (
    first_line,
    last_part,
    public_address,
    secrets_of_environment,
    shown_text,
    without_secrets,
)
from configs.errors import ConfigError, DataError

SCHEMES = ["http", "https", "HTTPS", "s3", "s3a", "gs", "abfs", "abfss", "hf", "ftp", "sftp", "postgresql"]
SCHEMES += ["postgresql+psycopg2", "mlflow", "wandb", "file", "git+https"]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("user", ["me:pw", "me:p@w", "me:p/w", "me:p?w", "me:p#w", "me:p:w", "me:12/w", ":pw", "pw"])
@pytest.mark.parametrize("host", ["h.org", "h.org:8080", "[2001:db8::1]:80", "localhost:80"])
def test_no_part_of_a_user_or_a_query_is_shown(scheme: str, user: str, host: str) -> None:
    address = f"{scheme}://{user}@{host}/a/t.jinja?sig=QQ&x=y@z#frag"
    # an @ after the user makes the host what follows the last one
    assert shown_text(address) in (f"{scheme}://{host}/a/t.jinja", f"{scheme}://z")
    plain = f"{scheme}://{user}@{host}/a/t.jinja?sig=QQ&x=y#frag"
    assert shown_text(plain) == f"{scheme}://{host}/a/t.jinja"
    assert last_part(plain) == "t.jinja"


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("https://me:key@host/a.csv?sig=x#y", "https://host/a.csv"),
        ("https://host/a.csv", "https://host/a.csv"),
        ("https://host:8080/a.csv", "https://host:8080/a.csv"),
        ("http://127.0.0.1:8080/pkg@1/a.csv?x=@", "http://127.0.0.1:8080/pkg@1/a.csv"),
        ("https://token@github.com/o/r", "https://github.com/o/r"),
        ("https://user%3Apw%40host/x", "https://host/x"),
        ("https://me:p%40w@host/x", "https://host/x"),
        ("https%3A%2F%2Fme%3Apw%40host%2Fx%3Fsig%3D1", "https://host/x"),
        ("https%253A%252F%252Fme%253Apw%2540host%252Fx", "https://host/x"),
        ("https:/me:pw@host/x", "https:/host/x"),
        ("https:\\/\\/me:pw@host\\/x", "https:\\/\\/host\\/x"),
        ("https:///me:SEC@host/x", "https:///host/x"),
        ("//me:SEC@host/x", "//host/x"),
        ("https%3A//me:SEC@host/x", "https://host/x"),
        ("https:%2F%2Fme%3ASEC%40host%2Fx", "https://host/x"),
        ("https://h/x%3Fsig%3DSEC", "https://h/x"),
        # a password without the @ that would end it
        ("https://me:pw/x", "https://***"),
        ("https://me:my pass word@host/x", "https://host/x"),
        ("https://me:p'w@host/x", "https://host/x"),
        # stores: a wildcard is part of a name, a query is not
        ("s3://bucket/a?.csv", "s3://bucket/a?.csv"),
        ("s3://bucket/day=1/part-??.jsonl.gz", "s3://bucket/day=1/part-??.jsonl.gz"),
        ("s3://bucket/run-?/*.jsonl", "s3://bucket/run-?/*.jsonl"),
        ("s3://bucket/a.csv?versionId=QQ", "s3://bucket/a.csv"),
        ("abfss://rows@team.dfs.core.windows.net/a.csv?sv=1&sig=QQ", "abfss://rows@team.dfs.core.windows.net/a.csv"),
        ("abfs://ME:pw@team.net/a", "abfs://team.net/a"),
        ("hf://datasets/owner/name@rev/a.csv", "hf://datasets/owner/name@rev/a.csv"),
        ("s3://bucket/me@home/a.csv", "s3://bucket/me@home/a.csv"),
        ("s3://bucket/a.csv#QQ", "s3://bucket/a.csv"),
        # chains of fsspec
        ("simplecache::https://me:pw@h/x?sig=1", "simplecache::https://h/x"),
        ("zip://a.csv::https://me:pw@h/x.zip?sig=1", "zip://a.csv::https://h/x.zip"),
        ("https://h/x?sig=1::y", "https://h/x"),
        # one address within another
        ("https://web.archive.org/https://me:pw@h/x", "https://web.archive.org/https://h/x"),
        ("https://h/login?next=https://me:pw@h2/y", "https://h/login"),
        # lists
        ("https://a:b@h/x?s=1,https://c:d@h/y?s=2;s3://b/z", "https://h/x,https://h/y;s3://b/z"),
        # no scheme
        ("git@github.com:owner/name.git", "github.com:owner/name.git"),
        ("me:pw@proxy:3128", "proxy:3128"),
        ("registry.org:5000/image@sha256:ab12", "registry.org:5000/image@sha256:ab12"),
        ("image@sha256:ab12", "image@sha256:ab12"),
        ("me@home/a.csv", "me@home/a.csv"),
        ("rows@v2.jsonl:7: 12 tokens", "rows@v2.jsonl:7: 12 tokens"),
        ("jdbc:postgresql://me:pw@h/db?password=x", "jdbc:postgresql://h/db"),
        # paths of this machine
        ("/data/a?.csv", "/data/a?.csv"),
        ("C:\\Users\\bob\\x.csv", "C:\\Users\\bob\\x.csv"),
        ("~/rows.jsonl", "~/rows.jsonl"),
        ("embedded:english-to-sql:20", "embedded:english-to-sql:20"),
        ("owner/name", "owner/name"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_what_opens_it(address: str, shown: str) -> None:
    assert shown_text(address) == shown
    assert shown_text(shown) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("x=https://me:pw@h/a?s=1 cannot be read", "x=https://h/a cannot be read"),
        ("Cannot connect to 'https://me:pw@h:8/a?sig=QQ' (refused)", "Cannot connect to 'https://h:8/a' (refused)"),
        ("see (https://me:pw@h/a?s=1), or s3://b/c.", "see (https://h/a), or s3://b/c."),
        ("path: https://me:pw@h/a\nfolder: s3://b/x\n", "path: https://h/a\nfolder: s3://b/x\n"),
        ('{"a": "https://me:pw@h/a#f", "b": 1}', '{"a": "https://h/a", "b": 1}'),
        ("HTTPS_PROXY=http://me:pw@proxy:3128 is set", "HTTPS_PROXY=http://proxy:3128 is set"),
        ("Max retries exceeded with url: /a.csv?X-Amz-Signature=QQ (x)", "Max retries exceeded with url: /a.csv (x)"),
        ("headers: {'Authorization': 'Bearer abc.def'}", "headers: {'Authorization': '***'}"),
        ("Authorization: Basic bWU6cHc= refused", "Authorization: *** refused"),
        ("Bearer eyabc123.def is expired", "Bearer *** is expired"),
        ("X-Amz-Credential=QQ, X-Amz-Signature=QQ end", "X-Amz-Credential=***, X-Amz-Signature=*** end"),
        ("AccountName=x;AccountKey=QQ==;End=1", "AccountName=x;AccountKey=***;End=1"),
        ("host=h password=hunter2 dbname=x", "host=h password=*** dbname=x"),
        ("HF_TOKEN=QQ was refused", "HF_TOKEN=*** was refused"),
        (f"token hf_{'a' * 30} is wrong", "token *** is wrong"),
        # slashes and signs that are written in another way, and quotes within an address
        ("at https:///me:SEC@host/x now", "at https:///host/x now"),
        ("at //me:SEC@host/x now", "at //host/x now"),
        ("at //SEC@host/x now", "at //host/x now"),
        ("at https%3A//me:SEC@host/x now", "at https://host/x now"),
        ("at https:%2F%2Fme%3ASEC%40host%2Fx now", "at https://host/x now"),
        ("at https%3A%2F%2Fme%3ASE%20C%40host%2Fx now", "at https://host/x now"),
        ("at https://h/x%3Fsig%3DSEC now", "at https://h/x now"),
        ("at https://h/what%3F.txt now", "at https://h/what%3F.txt now"),
        ("x https://SEC'y@host/x and", "x https://host/x and"),
        ('x https://me:SEC"y@host/x and', "x https://host/x and"),
        ("x https://SEC<y@host/x and", "x https://host/x and"),
        ("see https://h/x?a='SEC' x", "see https://h/x x"),
        ("see https://h/x?a='S EC'&b=\"SEC\" x", "see https://h/x x"),
        ("see 'https://h/x?a=1', 'b'", "see 'https://h/x', 'b'"),
        ("<a>https://h/x</a>, bob@example.org", "<a>https://h/x</a>, bob@example.org"),
        ("file:///home/me/a@b and hdfs:///x", "file:///home/me/a@b and hdfs:///x"),
        # what only looks like one
        ("write it as https://host:port", "write it as https://host:port"),
        ("pad_token=<pad>, eos_token=</s>", "pad_token=<pad>, eos_token=</s>"),
        ("basic settings; the bearer of news", "basic settings; the bearer of news"),
        ("model.name=a/b: is 7:30 at noon? yes", "model.name=a/b: is 7:30 at noon? yes"),
    ],
)
def test_addresses_in_a_text_are_shown_without_what_opens_them(text: str, shown: str) -> None:
    assert shown_text(text) == shown
    assert shown_text(shown) == shown


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("/home/alice/secret/rows.jsonl", "rows.jsonl"),
        ("/home/alice/my rows/a b.jsonl", "a b.jsonl"),
        ("/home/alice/base/", "base"),
        ("~/models/base", "base"),
        ("../base", "base"),
        ("data/train/rows.jsonl", "rows.jsonl"),
        ("file:///home/alice/x?.jsonl", "x?.jsonl"),
        ("C:\\Users\\bob\\x.csv", "x.csv"),
        ("\\\\server\\share\\x.csv", "x.csv"),
        ("owner/name", "owner/name"),
        ("rows.jsonl", "rows.jsonl"),
        ("https://me:pw@h/a/b.csv?s=1", "https://h/a/b.csv"),
        ("s3://bucket/a/b.csv", "s3://bucket/a/b.csv"),
        ("read from /home/alice/base and file:///tmp/x/y, 1/2 or and/or", "read from base and y, 1/2 or and/or"),
        ('{"path": "/home/alice/a.jsonl"}', '{"path": "a.jsonl"}'),
        ("path: ~/x/a.jsonl\n", "path: a.jsonl\n"),
        ("at C:\\Users\\bob\\x.csv there", "at x.csv there"),
    ],
)
def test_what_is_public_of_a_path_is_its_last_part(address: str, public: str) -> None:
    assert public_address(address) == public
    assert public_address(public) == public


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("https://me:pw@h/a/b.csv?s=1/x", "b.csv"),
        ("https://h", "https://h"),
        ("s3://bucket/model/", "model"),
        ("a/b/*.jsonl", "*.jsonl"),
        ("/", "/"),
        ("C:\\x\\y", "y"),
    ],
)
def test_the_last_part_is_a_files_name(address: str, name: str) -> None:
    assert last_part(address) == name


def test_secrets_of_the_environment_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("HF_TOKEN", "short")
    found = secrets_of_environment()
    assert "0123456789abcdef" in found and "short" not in found


_SECRET = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="@"), min_size=1, max_size=8)


@given(st.sampled_from(SCHEMES), _SECRET, _SECRET, st.sampled_from(["", " cannot be read", ", and s3://b/c"]))
def test_no_password_of_any_characters_is_shown(scheme: str, first: str, second: str, after: str) -> None:
    password = f"SEC{first}@{second}RET"
    for text in (f"{scheme}://me:{password}@h/x{after}", f"{scheme}://h/x?k=SEC{first.strip('<>`')}"):
        if not set("\"'`<>") & set(password) or not after:
            assert "SEC" not in shown_text(text) and "RET" not in shown_text(text)


def test_errors_show_no_secret_whatever_they_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_API_KEY", "0123456789abcdef")
    monkeypatch.setenv("SHORT_TOKEN", "is")
    told = "x=https://me:pw@h/a?s=1 is wrong: 0123456789abcdef"
    assert str(ConfigError(told)) == "x=https://h/a is wrong: ***"
    assert DataError(told).exit_code == "Error: x=https://h/a is wrong: ***"
    assert without_secrets(told) == "x=https://h/a is wrong: ***"


def test_the_first_line_of_a_librarys_error_is_cut_after_it_was_cleaned() -> None:
    assert first_line(ValueError("GET https://me:pw@h/a?s=1 failed\nmore")) == "GET https://h/a failed"
    token = f"hf_{'a' * 30}"
    assert first_line(ValueError(f"no {token}"), longest=8) == "no ***"
    assert (first_line(ValueError("")), first_line("")) == ("ValueError", "")

"""Answers without end: of an API, of a listing, pauses that a hub asks for, and files that run on."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from huggingface_hub import get_session
from huggingface_hub.utils import http_backoff
from huggingface_hub.utils._pagination import paginate

from tasks.files import hub_client, waiting
from tasks.files.hub_client import use_patient_client
from tasks.files.streams import open_bytes
from tasks.files.waiting import NoAnswerError, RefusedAnswerError


class _Endless(BaseHTTPRequestHandler):
    """Answers by the address: /body sends zeros for ever, /pages another page, /busy a pause of N s, /file some MB."""

    def do_GET(self) -> None:
        place, _, number = self.path.partition("?")[0].strip("/").partition("/")
        with suppress(OSError):
            getattr(self, f"_{place}")(int(number))

    def _body(self, number: int) -> None:
        self._head(200)
        while True:
            self.wfile.write(bytes(2**18))

    def _file(self, number: int) -> None:
        self._head(200, ("Content-Length", f"{number * 10**6}"))
        for _ in range(number):
            self.wfile.write(bytes(10**6))
            time.sleep(0.1)

    def _failing(self, number: int) -> None:
        """Answer every other request for a page with an error."""
        self.server.num_failing = getattr(self.server, "num_failing", 0) + 1  # type: ignore[attr-defined]
        if self.server.num_failing % 2:  # type: ignore[attr-defined]
            self._pages(number, "failing")
        else:
            self._head(404, ("Content-Length", "0"))

    def _pages(self, number: int, place: str = "pages") -> None:
        host, port = self.server.server_address[:2]
        self._head(200, ("Link", f'<http://{host!s}:{port}/{place}/{number + 1}>; rel="next"'), ("Content-Length", "2"))
        self.wfile.write(b"[]")

    def _busy(self, number: int) -> None:
        self._head(503, ("Retry-After", f"{number}"), ("Content-Length", "0"))

    def _limited(self, number: int) -> None:
        self._head(429, ("RateLimit", f'"api";r=0;t={number}'), ("Content-Length", "0"))

    def _head(self, status: int, *fields: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("WAITING_SECONDS", "6")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Endless)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    use_patient_client()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def test_an_answer_has_a_longest_length(url: str) -> None:
    with pytest.raises(RefusedAnswerError) as error:
        get_session().get(f"{url}/body/0?key=secret")
    assert str(error.value) == f"gave up waiting for {url}/body/0: its answer is longer than 64 MiB"


def test_a_part_of_a_file_may_be_longer_but_not_than_asked(url: str) -> None:
    with pytest.raises(RefusedAnswerError, match=r"longer than 80 MiB$"):
        get_session().get(f"{url}/body/0", headers={"Range": f"bytes=1-{80 * 2**20}"})


def test_a_download_may_be_longer(url: str) -> None:
    num_bytes = 0
    with get_session().stream("GET", f"{url}/body/0") as response:
        for part in response.iter_bytes():
            num_bytes += len(part)
            if num_bytes > 70 * 2**20:
                return


def test_a_listing_has_a_largest_number_of_pages(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "_MOST_PAGES", 20)
    with pytest.raises(RefusedAnswerError) as error:
        list(paginate(f"{url}/pages/1", {}, {}))
    assert str(error.value) == f"gave up waiting for {url}/pages/1: its listing has more than 20 pages"


def test_errors_between_pages_do_not_begin_the_count_anew(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_client, "_MOST_PAGES", 10)
    with pytest.raises(RefusedAnswerError, match=r"its listing has more than 10 pages$"):
        following = f"{url}/failing/1"
        while True:
            response = get_session().get(following)
            following = response.links["next"]["url"] if response.is_success else following


def test_a_listing_is_one_wait(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WAITING_SECONDS", "0.4")
    began = time.monotonic()
    with pytest.raises(NoAnswerError, match=rf"^gave up waiting for {url}/pages/1 after 0.4 s$"):
        list(paginate(f"{url}/pages/1", {}, {}))
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(("place", "status"), [("busy", 503), ("limited", 429)])
def test_a_pause_longer_than_the_limit_is_not_made(place: str, status: int, url: str) -> None:
    began = time.monotonic()
    with pytest.raises(RefusedAnswerError) as error:
        http_backoff("GET", f"{url}/{place}/100000")
    assert str(error.value) == (
        f"gave up waiting for {url}/{place}/100000: it answered {status} and asks for a pause of 100000 s"
    )
    assert time.monotonic() - began < 2


def test_pauses_are_part_of_the_wait(url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("WAITING_SECONDS", "2.5")
    monkeypatch.setattr(hub_client, "_SAID_PAUSE_SECONDS", 1.0)
    # the library sleeps a second more than it was asked to: the first pause fits into 2.5 s, and the second does not
    with pytest.raises(RefusedAnswerError, match=r"a pause of 1 s$"):
        http_backoff("GET", f"{url}/busy/1")
    assert capsys.readouterr().out == f"still waiting for {url}/busy/1, which asks for a pause of 1 s\n"


def test_a_file_that_runs_on_is_said(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(waiting, "_RECEIVING_SECONDS", 0.25)
    assert len(open_bytes(f"{url}/file/12?key=secret").read()) == 12 * 10**6
    lines = capsys.readouterr().out.splitlines()
    # after 0.25 and 0.75 s; a megabyte comes each tenth, or later on a busy machine
    assert 2 <= len(lines) <= 4
    form = rf"still receiving {url}/file/12 \(\d s, [2-9] MB so far\)"
    assert all(re.fullmatch(form, line) for line in lines), lines
    with get_session().stream("GET", f"{url}/file/12") as response:
        assert sum(map(len, response.iter_bytes())) == 12 * 10**6
    assert 2 <= len(capsys.readouterr().out.splitlines()) <= 4

"""The hub's client with an end to every wait: for an answer, for its next bytes, and for a hub to take an upload.

By itself the client waits without end for most answers, and for a server that sends a byte now and then. It tries
again after some failures, and pauses for as long as a hub asks: all tries of one request, with the pauses, are one wait
here, and so are all pages of a listing. An answer that is not streamed to a file has a longest length. Files that
travel by the hub's own protocol, Xet, do so in a library that is not Python; its time limits are set by variables.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from threading import Lock, get_ident
from typing import Any

import httpx2
from huggingface_hub import get_session, set_client_factory
from huggingface_hub.utils import parse_ratelimit_headers

from configs.addresses import shown_address
from configs.printable import print_line
from tasks.files.waiting import TICK_SECONDS, RefusedAnswerError, Wait, limit_seconds

_UPLOAD_FACTOR = 3
"""A hub may work long on a commit before it answers, and another try would send it all again."""
_ASKS = ("GET", "HEAD", "OPTIONS")
_PIECE_BYTES = 2**16
_XET_TRIES = 3
# the client pauses at most 8 seconds between two tries
_SAME_WAIT_SECONDS = 15.0
_MOST_ANSWER_MIB = 64
_MOST_PAGES = 10_000
_BUSY_STATUSES = (429, 500, 502, 503, 504)
_SAID_PAUSE_SECONDS = 5.0
_is_installed = False
_installing = Lock()


def use_patient_client() -> None:
    """Make the hub's client of this process give up a hub that does not answer; a second call changes nothing."""
    global _is_installed
    # the plan asks in threads: none may go on with the client that waits without end
    with _installing:
        if _is_installed:
            return
        # Xet's library tries many times by default, and each of its requests on its own
        seconds = f"{max(1, round(limit_seconds() / _XET_TRIES))}s"
        limits = {"CONNECT_TIMEOUT": seconds, "READ_TIMEOUT": seconds, "RETRY_MAX_ATTEMPTS": str(_XET_TRIES)}
        for name, value in limits.items():
            os.environ.setdefault(f"HF_XET_CLIENT_{name}", value)
        before = get_session()
        hooks, follows, timeout = before.event_hooks, before.follow_redirects, before.timeout
        set_client_factory(lambda: _PatientClient(event_hooks=hooks, follow_redirects=follows, timeout=timeout))
        _is_installed = True


@dataclass
class _Listing:
    """Pages that an answer names one after the other."""

    wait: Wait
    num_pages: int = 0
    num_bytes: int = 0


class _PatientClient(httpx2.Client):
    """A client whose requests end: each with an answer, or with a `NoAnswerError`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._failed: dict[str, tuple[Wait, float, float]] = {}
        """The waits of requests that failed, when, and the pause that the hub asked for; each may be tried again."""
        self._listings: dict[tuple[int, str], _Listing] = {}
        """Listings by the thread that reads them and the address of their next page."""
        self._failed_lock = Lock()

    def send(self, request: httpx2.Request, *, stream: bool = False, **settings: Any) -> httpx2.Response:
        """Send as the base class does, within the wait that earlier tries of this request have begun.

        Raises:
            NoAnswerError: the server did not answer, or sent or took almost nothing, for too long; its answer is too
                long; or it asks for a longer pause than is left.
        """
        # it stays until this page came, so that failures do not begin the count anew
        listing = self._listings.get(_page(request.url))
        wait = self._wait(request, listing)
        keep = partial(self._keep, request, wait)
        if not isinstance(request.stream, _Counted):
            request.stream = _Counted(request.stream, wait.moved)
        with keep(), wait:
            timeouts = request.extensions.get("timeout", {})
            # a moment more: the wait's own error says what was waited for
            left = max(0.0, wait.limit - wait.seconds) + 2 * TICK_SECONDS
            request.extensions["timeout"] = {
                kind: min(timeouts.get(kind) or left, left) for kind in ("connect", "read", "write", "pool")
            }
            response = super().send(request, stream=True, **settings)
            with ExitStack() as if_it_fails:
                if_it_fails.callback(response.close)
                self._check_pause(request, response, wait)
                if not stream:
                    response.stream = _Counted(response.stream, wait.received)
                    self._read(request, response, listing or _Listing(wait))
                if_it_fails.pop_all()
            if not stream:
                return response
        response.stream = _Counted(response.stream, wait.received, lambda: _both(keep(), wait))
        return response

    def _read(self, request: httpx2.Request, response: httpx2.Response, listing: _Listing) -> None:
        """Read an answer into memory, and remember the listing that it is a page of.

        Raises:
            RefusedAnswerError: the answer, or the listing with it, is too long.
        """
        parts = []
        # one that asked for a part of a file knows how long the part is
        most_bytes = max(_MOST_ANSWER_MIB * 2**20, _num_asked(request))
        for part in response.iter_bytes():
            listing.num_bytes += len(part)
            if listing.num_bytes > most_bytes:
                raise RefusedAnswerError(listing.wait.what, f"its answer is longer than {most_bytes // 2**20} MiB")
            parts.append(part)
        # what `Response.read` sets; it has no limit
        response._content = b"".join(parts)
        if response.is_success:
            self._listings.pop(_page(request.url), None)
        following = response.links.get("next", {}).get("url")
        if following is None:
            return
        listing.num_pages += 1
        if listing.num_pages >= _MOST_PAGES:
            raise RefusedAnswerError(listing.wait.what, f"its listing has more than {_MOST_PAGES:,} pages")
        self._listings[_page(httpx2.URL(following))] = listing

    def _check_pause(self, request: httpx2.Request, response: httpx2.Response, wait: Wait) -> None:
        """Keep the wait for the next try if a busy hub asks for a pause, which the library makes.

        Raises:
            RefusedAnswerError: the pause is longer than what is left of the wait.
        """
        pause = _asked_pause(response)
        if not pause:
            return
        if pause > wait.limit - wait.seconds:
            status = response.status_code
            raise RefusedAnswerError(wait.what, f"it answered {status} and asks for a pause of {pause:.0f} s")
        if pause >= _SAID_PAUSE_SECONDS:
            print_line(f"still waiting for {wait.what}, which asks for a pause of {pause:.0f} s")
        with self._failed_lock:
            self._failed[_key(request)] = wait, time.monotonic(), pause

    def _wait(self, request: httpx2.Request, listing: _Listing | None) -> Wait:
        """Return the wait of the last try of a request, if that failed a moment ago, or its listing's, or a new one."""
        with self._failed_lock:
            wait, failed_at, asked = self._failed.pop(_key(request), (None, 0.0, 0.0))
        pause = time.monotonic() - failed_at
        if wait is not None and pause < asked + _SAME_WAIT_SECONDS:
            wait.add(pause)
            return wait
        if listing is not None:
            return listing.wait
        limit = limit_seconds() * (1 if request.method in _ASKS else _UPLOAD_FACTOR)
        return Wait(shown_address(str(request.url)), limit)

    @contextmanager
    def _keep(self, request: httpx2.Request, wait: Wait) -> Iterator[None]:
        """Keep the wait for another try if the block fails."""
        try:
            yield
        except httpx2.HTTPError:
            with self._failed_lock:
                self._failed[_key(request)] = wait, time.monotonic(), 0.0
            raise


def _key(request: httpx2.Request) -> str:
    return f"{request.method} {request.url}"


def _page(url: httpx2.URL) -> tuple[int, str]:
    return get_ident(), str(url)


def _num_asked(request: httpx2.Request) -> int:
    """Return how many bytes of a file a request asks for; 0 if it does not say."""
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("range", ""))
    return int(asked[2]) - int(asked[1]) + 1 if asked else 0


def _asked_pause(response: httpx2.Response) -> float:
    """Return the seconds that the library sleeps because a busy hub asks for it; 0 if it does not ask."""
    if response.status_code not in _BUSY_STATUSES:
        return 0.0
    limits = parse_ratelimit_headers(response.headers) if response.status_code == 429 else None
    if limits is not None and limits.remaining == 0:
        return float(limits.reset_in_seconds)
    asked = response.headers.get("retry-after", "").strip()
    return float(asked) if asked.isdigit() else 0.0


@contextmanager
def _both(outer: AbstractContextManager[Any], inner: AbstractContextManager[Any]) -> Iterator[None]:
    with outer, inner:
        yield


class _Counted(httpx2.SyncByteStream):
    """A body in pieces that are counted as they travel; each is awaited within a block of its own, if there is one."""

    def __init__(
        self,
        stream: Any,
        moved: Callable[[int], None],
        awaiting: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        self._stream, self._moved, self._awaiting = stream, moved, awaiting

    def __iter__(self) -> Iterator[bytes]:
        chunks = iter(self._stream)
        while True:
            with self._awaiting():
                chunk = next(chunks, None)
            if chunk is None:
                return
            # a body in memory is one chunk, of which a slow network would show no progress
            for start in range(0, len(chunk), _PIECE_BYTES):
                piece = chunk[start : start + _PIECE_BYTES]
                yield piece
                self._moved(len(piece))

    def close(self) -> None:
        self._stream.close()

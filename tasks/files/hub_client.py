"""The hub's client with an end to every wait: for an answer, for its next bytes, and for a hub to take an upload.

By itself the client waits without end for most answers, and for a server that sends a byte now and then. It tries
again after some failures: all tries of one request are one wait here. Files that travel by the hub's own protocol, Xet,
do so in a library that is not Python; its time limits are set by variables.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from threading import Lock
from typing import Any

import httpx2
from huggingface_hub import get_session, set_client_factory

from configs.addresses import shown_address
from tasks.files.waiting import TICK_SECONDS, Wait, limit_seconds

_UPLOAD_FACTOR = 3
"""A hub may work long on a commit before it answers, and another try would send it all again."""
_ASKS = ("GET", "HEAD", "OPTIONS")
_PIECE_BYTES = 2**16
_XET_TRIES = 3
# the client pauses at most 8 seconds between two tries
_SAME_WAIT_SECONDS = 15.0
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


class _PatientClient(httpx2.Client):
    """A client whose requests end: each with an answer, or with a `NoAnswerError`."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._failed: dict[str, tuple[Wait, float]] = {}
        """The waits of requests that failed, and when; the client may try each again."""
        self._failed_lock = Lock()

    def send(self, request: httpx2.Request, *, stream: bool = False, **settings: Any) -> httpx2.Response:
        """Send as the base class does, within the wait that earlier tries of this request have begun.

        Raises:
            NoAnswerError: the server did not answer, or sent or took almost nothing, for too long.
        """
        wait = self._wait(request)
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
            if not stream:
                response.stream = _Counted(response.stream, wait.moved)
                with ExitStack() as if_it_fails:
                    if_it_fails.callback(response.close)
                    response.read()
                    if_it_fails.pop_all()
                return response
        response.stream = _Counted(response.stream, wait.moved, lambda: _both(keep(), wait))
        return response

    def _wait(self, request: httpx2.Request) -> Wait:
        """Return the wait of the last try of a request, if that failed a moment ago, or a new one."""
        with self._failed_lock:
            wait, failed_at = self._failed.pop(_key(request), (None, 0.0))
        pause = time.monotonic() - failed_at
        if wait is not None and pause < _SAME_WAIT_SECONDS:
            wait.add(pause)
            return wait
        limit = limit_seconds() * (1 if request.method in _ASKS else _UPLOAD_FACTOR)
        return Wait(shown_address(str(request.url)), limit)

    @contextmanager
    def _keep(self, request: httpx2.Request, wait: Wait) -> Iterator[None]:
        """Keep the wait for another try if the block fails."""
        try:
            yield
        except httpx2.HTTPError:
            with self._failed_lock:
                self._failed[_key(request)] = wait, time.monotonic()
            raise


def _key(request: httpx2.Request) -> str:
    return f"{request.method} {request.url}"


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

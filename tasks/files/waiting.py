"""Says what a run waits for when that takes long, and ends the wait at a limit.

A server may accept a connection and never answer, or send a byte a second, which no timeout between two bytes ends. A
chat template may loop without end. So what may last is done within `waiting_for`: after 5 seconds, and then at growing
intervals, a line says what is waited for and when it is given up. What makes progress (`Wait.moved`) is not given up;
of what is received for long (`Wait.received`), lines say how much has come.

Python can only end what runs in Python: a call into a library in another language ends once it returns.
"""

from __future__ import annotations

import ctypes
import math
import os
import threading
import time
from types import TracebackType

from configs.addresses import shown_address
from configs.printable import one_line, print_line

_FIRST_LINE_SECONDS = 5.0
_DEFAULT_SECONDS = 60.0
_VARIABLE = "WAITING_SECONDS"
_FEWEST_BYTES = 2**16
TICK_SECONDS = 0.1
# the watch ends if nothing was waited for in so many ticks
_IDLE_TICKS = 50
_MOST_RAISED = 3
_MOST_LINES = 3
_RECEIVING_SECONDS = 10.0


def limit_seconds() -> float:
    """Return the seconds after which a server without an answer is given up: $WAITING_SECONDS, or 60."""
    try:
        return max(0.1, float(os.environ.get(_VARIABLE, "")))
    except ValueError:
        return _DEFAULT_SECONDS


class NoAnswerError(TimeoutError):
    """What was waited for did not come within the limit; the message says what, and the limit, which is `seconds`."""

    def __init__(self, what: str, seconds: float) -> None:
        super().__init__(f"gave up waiting for {one_line(what)} after {seconds:g} s")
        self.seconds = seconds


class RefusedAnswerError(NoAnswerError):
    """What was waited for answers in a way that would never end; the message says what, and the reason."""

    def __init__(self, what: str, reason: str) -> None:
        TimeoutError.__init__(self, f"gave up waiting for {one_line(what)}: {one_line(reason)}")
        self.seconds = 0.0


class Wait:
    """What is waited for, in one or more blocks; only the time within them counts. Blocks are of one thread at a time.

    `what` is the object of "waiting for", which is kept as `shown_address`. The wait begins anew with each
    `fewest_bytes` that came, so that a large file may take hours, and a server that sends a byte a second may not.
    """

    def __init__(self, what: str, limit: float | None = None, fewest_bytes: int = _FEWEST_BYTES) -> None:
        self.what = shown_address(what)
        self.limit = limit_seconds() if limit is None else limit
        self._fewest_bytes = fewest_bytes
        self._thread = 0
        self._entered = 0.0
        self._num_raised = 0
        self._received_since = 0.0
        self._num_received = 0
        self._next_receiving_line = _RECEIVING_SECONDS
        self._begin_anew()

    def _begin_anew(self) -> None:
        self._waited, self._num_bytes, self._next_line = 0.0, 0, _FIRST_LINE_SECONDS
        self._entered = time.monotonic()

    def moved(self, num_bytes: int) -> None:
        """Count bytes that came."""
        self._num_bytes += num_bytes
        if self._num_bytes >= self._fewest_bytes:
            self._begin_anew()

    def received(self, num_bytes: int) -> None:
        """Count bytes that came, and print how many once they come for long, at growing intervals."""
        self.moved(num_bytes)
        now = time.monotonic()
        self._received_since = self._received_since or now
        self._num_received += num_bytes
        seconds = now - self._received_since
        if seconds >= self._next_receiving_line:
            self._next_receiving_line = 2 * seconds
            print_line(f"still receiving {self.what} ({seconds:.0f} s, {self._num_received / 1e6:.0f} MB so far)")

    def add(self, seconds: float) -> None:
        """Count time between two blocks, such as the pause before another try."""
        self._waited += seconds

    @property
    def seconds(self) -> float:
        """The time waited so far, within a block."""
        return self._waited + time.monotonic() - self._entered

    @property
    def error(self) -> NoAnswerError:
        """The error that ends the wait."""
        return NoAnswerError(self.what, self.limit)

    def __enter__(self) -> Wait:
        if self._waited > self.limit:
            # of tries that failed one after the other
            raise self.error
        self._thread, self._entered, self._num_raised = threading.get_ident(), time.monotonic(), 0
        _watch(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _lock:
            _waits.discard(self)
        self._waited = self.seconds
        if self._num_raised:
            # one that has not come through yet must not hit what follows
            ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), None)
            if kind is None or (issubclass(kind, Exception) and not issubclass(kind, NoAnswerError)):
                # libraries translate a `TimeoutError` into errors of their own
                raise self.error from None

    def due_line(self) -> str:
        """Return the line that is due, or an empty text."""
        seconds = self.seconds
        if seconds < self._next_line or seconds > self.limit:
            return ""
        self._next_line = max(2 * self._next_line, seconds)
        end = f"; gives up after {self.limit:g} s" if math.isfinite(self.limit) else ""
        return f"still waiting for {self.what} ({seconds:.0f} s{end})"

    def give_up(self) -> None:
        """Raise the error in the thread that waits; it comes through once that thread runs Python code.

        It is raised again a second later if the thread still waits: Python drops an error in a finalizer.
        """
        if self._num_raised > _MOST_RAISED or self.seconds < self.limit + self._num_raised:
            return
        self._num_raised += 1
        what, limit = self.what, self.limit

        def __init__(error: NoAnswerError) -> None:
            NoAnswerError.__init__(error, what, limit)

        # Python raises a class there, of which it makes an error without arguments
        kind = type("NoAnswerError", (NoAnswerError,), {"__init__": __init__, "__module__": __name__})
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread), ctypes.py_object(kind))


def waiting_for(what: str, limit: float | None = None) -> Wait:
    """Return a block in which a run waits for `what`, at most `limit` seconds, by default those of `limit_seconds`.

    With `math.inf` it only says so, where something else ends the wait.

    Raises:
        NoAnswerError: it took longer.
    """
    return Wait(what, limit)


_waits: set[Wait] = set()
_lock = threading.Lock()
_thread: threading.Thread | None = None


def _watch(wait: Wait) -> None:
    """Have a wait watched by the thread that watches all of this process."""
    global _thread
    with _lock:
        _waits.add(wait)
        if _thread is None:
            _thread = threading.Thread(target=_run, name="waiting", daemon=True)
            _thread.start()


def _run() -> None:
    global _thread
    num_idle = 0
    while True:
        time.sleep(TICK_SECONDS)
        with _lock:
            num_idle = 0 if _waits else num_idle + 1
            if num_idle > _IDLE_TICKS:
                _thread = None
                return
            lines = list(dict.fromkeys(filter(None, [wait.due_line() for wait in _waits])))
            for wait in [wait for wait in _waits if wait.seconds > wait.limit]:
                wait.give_up()
        if lines:
            # many processes and threads may wait for one server
            more = [f"still waiting for {len(lines) - _MOST_LINES} more"] if lines[_MOST_LINES:] else []
            for line in [*lines[:_MOST_LINES], *more]:
                print_line(line)


def _begin_in_child() -> None:
    """Forget the waits of the process that this one was forked from: their threads are not here."""
    global _lock, _thread
    _lock, _thread = threading.Lock(), None
    _waits.clear()


os.register_at_fork(after_in_child=_begin_in_child)

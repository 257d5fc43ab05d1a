"""Progress of long work: a bar in a terminal, a line now and then in a pod's log.

A pod has no terminal, and a step, a forward pass or an upload may take minutes. Work declares what it is doing
(`doing`) and how much of it is done (`counting`). A thread prints that again when nothing was printed for a while.
Outside of a `heartbeat` and of a terminal, work is silent.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from configs.printable import one_line, print_line

_DEFAULT_SECONDS = 30.0
_VARIABLE = "PROGRESS_SECONDS"
# of lines that may be left out, this many are printed at once, and then one in so many seconds
_BURST_LINES = 50
_SECONDS_PER_LINE = 2.0


def every_seconds() -> float:
    """Return the seconds of silence after which progress is printed: $PROGRESS_SECONDS, or 30.

    At 0, the thread prints nothing, and all lines of the work itself are printed.
    """
    text = os.environ.get(_VARIABLE, "")
    try:
        return max(0.0, float(text))
    except ValueError:
        return _DEFAULT_SECONDS


def duration(seconds: float) -> str:
    """Return a time in at most two units, such as `45 s`, `12 min 5 s`, `3 h 20 min` or `2 d 4 h`."""
    whole = max(0, round(seconds))
    for size, unit, smaller, name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // smaller
            return f"{whole // size} {unit}" + (f" {rest} {name}" if rest else "")
    return f"{whole} s"


class Count:
    """How much of a known amount is done. `work` is what takes time, such as tokens, where that is not the amount."""

    def __init__(self, what: str, total: int, unit: str, total_work: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self.total_work = total_work
        self.num_done, self.work_done, self.num_tokens = 0, 0, 0
        self.facts: dict[str, str] = {}
        """Results so far, such as a loss. They go to the log, so they hold nothing of a row."""
        self.samples: list[tuple[str, str, str]] = []
        """(prompt, expected, answer) of some of the last rows, for Decks only."""
        self.num_right = 0
        """Rows answered as expected so far."""
        self._began = time.monotonic()
        self._bar: tqdm[Any] | None = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, desc=one_line(what), unit=unit.removesuffix("s"), dynamic_ncols=True)

    def add(self, number: int, work: int = 0, num_tokens: int = 0) -> None:
        """Count `number` more as done."""
        self.num_done += number
        self.work_done += work
        self.num_tokens += num_tokens
        if self._bar is not None:
            self._bar.update(number)

    @property
    def share(self) -> float:
        """Share of the work that is done, 0 to 1."""
        done, total = (self.work_done, self.total_work) if self.total_work else (self.num_done, self.total)
        return min(1.0, done / total) if total else 1.0

    @property
    def seconds_left(self) -> float | None:
        """Seconds until all is done, at the pace so far; None before anything is done."""
        share = self.share
        return (time.monotonic() - self._began) * (1 - share) / share if share else None

    @property
    def speed(self) -> str:
        """Tokens per second where tokens are counted, else units per second."""
        seconds = max(1e-9, time.monotonic() - self._began)
        if self.num_tokens:
            return f"{self.num_tokens / seconds:,.0f} tokens/s"
        rate = self.num_done / seconds
        return f"{rate:,.0f} {self.unit}/s" if rate >= 10 else f"{rate:.2g} {self.unit}/s"

    def line(self) -> str:
        """Return how much is done, how fast, and the time left; at the end, the time it took."""
        facts = "".join(f"  {name} {value}" for name, value in self.facts.items())
        if self.num_done >= self.total:
            took = duration(time.monotonic() - self._began)
            return f"{self.what} {self.total:,} {self.unit} in {took}  {self.speed}{facts}"
        left = self.seconds_left
        if left is None:
            return f"{self.what} 0/{self.total:,} {self.unit}  for {duration(time.monotonic() - self._began)}"
        return f"{self.what} {self.num_done:,}/{self.total:,} {self.unit}  {self.speed}{facts}  {duration(left)} left"

    def close(self) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.close()


class Heartbeat:
    """Prints what `stage` is doing when nothing was printed for `every_seconds`. Made by `heartbeat`."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.counts: list[Count] = []
        """All counts so far, in order; the last may be in progress."""
        self._every = every_seconds()
        self._doing: list[Callable[[], str]] = []
        self._printed_at = self._refilled_at = time.monotonic()
        self._lines = float(_BURST_LINES)
        self._stopped = threading.Event()
        self._lock = threading.Lock()

    def say(self, line: str, always: bool = True) -> None:
        """Print a line. Without `always` it is left out after a burst of 50 lines, beyond one line in 2 seconds."""
        with self._lock:
            now = time.monotonic()
            self._lines = min(_BURST_LINES, self._lines + (now - self._refilled_at) / _SECONDS_PER_LINE)
            self._refilled_at = now
            if not always and self._every and self._lines < 1:
                return
            self._lines = max(0.0, self._lines - 1)
            self._printed_at = now
        print_line(f"{self.stage}: {line}")

    def activity(self) -> str:
        """Return what is being done; empty where nothing is."""
        # a copy: the work's thread may pop it meanwhile
        last = self._doing[-1:]
        return last[0]() if last else ""

    def push(self, describe: Callable[[], str]) -> None:
        """Declare what is being done from now on, within what was declared before."""
        self._doing.append(describe)

    def pop(self) -> None:
        """End what was declared last."""
        self._doing.pop()

    def beat(self) -> None:
        """Print what is being done if nothing was printed for long enough. The thread calls it again and again."""
        silent = time.monotonic() - self._printed_at
        if silent >= self._every and not sys.stderr.isatty() and (text := self.activity()):
            self.say(text)

    def run(self) -> None:
        """Beat until the work is done."""
        while not self._stopped.wait(min(1.0, self._every / 4)):
            self.beat()

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped.set()


_hearts: list[Heartbeat] = []


@contextmanager
def heartbeat(stage: str) -> Iterator[Heartbeat]:
    """Within the block, print what `stage` is doing whenever nothing else was printed for a while."""
    heart = Heartbeat(stage)
    _hearts.append(heart)
    thread = threading.Thread(target=heart.run, name=f"{stage}-heartbeat", daemon=True)
    if heart._every:
        thread.start()
    try:
        yield heart
    finally:
        heart.stop()
        if heart._every:
            thread.join()
        _hearts.remove(heart)


def say(line: str, stage: str, always: bool = True) -> None:
    """Print `<stage>: <line>`, through the heartbeat where there is one (see `Heartbeat.say`)."""
    if _hearts:
        _hearts[-1].say(line, always)
    else:
        print_line(f"{stage}: {line}")


@contextmanager
def doing(what: str | Callable[[], str]) -> Iterator[None]:
    """Within the block, declare what is being done: a text, to which the time so far is added, or a function of no
    arguments that returns the whole text."""
    began = time.monotonic()

    def describe() -> str:
        return what() if callable(what) else f"{what}, {duration(time.monotonic() - began)} so far"

    heart = _hearts[-1] if _hearts else None
    if heart is not None:
        heart.push(describe)
    try:
        yield
    finally:
        if heart is not None:
            heart.pop()


@contextmanager
def counting(what: str, total: int, unit: str, total_work: int = 0) -> Iterator[Count]:
    """Within the block, count what is done of `total`. The end is printed, unless `total` is 0."""
    count = Count(what, total, unit, total_work)
    heart = _hearts[-1] if _hearts and total else None
    if heart is not None:
        heart.counts.append(count)
        heart.push(count.line)
    try:
        yield count
        if heart is not None and not sys.stderr.isatty():
            heart.say(count.line())
    finally:
        count.close()
        if heart is not None:
            heart.pop()

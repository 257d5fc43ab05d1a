"""A Deck that can be looked at while its task runs: published again and again by a thread, and never a task's fault."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flytekit import Deck
from flytekit.loggers import logger

from tasks.runtime.pods import is_laptop_run

_FAILED = "Failed to write flyte deck html"
_LAST_UPLOAD_SECONDS = 60.0


class _FirstFailure(logging.Filter):
    """Lets flytekit say once that a Deck could not be written."""

    num_failed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith(_FAILED):
            return True
        self.num_failed += 1
        return self.num_failed == 1


class _Publisher:
    """Renders and publishes one Deck. `render` returns HTML, or None where there is nothing new."""

    def __init__(self, name: str, render: Callable[[], str | None], every_seconds: float) -> None:
        self.deck: Deck | None = None
        self._name, self._render, self._every = name, render, every_seconds
        self._stopped = threading.Event()
        self._has_failed = False

    def update(self) -> bool:
        """Put what is new into the Deck; return whether there was something."""
        try:
            html = self._render()
        # whatever it is: the task's own work goes on
        except Exception as error:
            if not self._has_failed:
                print(f"warning: the Deck {self._name} is not shown while the task runs: {error!r:.200}", flush=True)
            self._has_failed = True
            return False
        if html is None:
            return False
        if self.deck is None:
            self.deck = Deck(self._name, "")
        self.deck._html = html
        return True

    def run(self) -> None:
        """Publish until the task's work is done."""
        published_at = float("-inf")
        while not self._stopped.wait(min(1.0, self._every / 4)):
            if time.monotonic() - published_at >= self._every and self.update():
                Deck.publish()
                published_at = time.monotonic()

    def stop(self) -> None:
        """Let the thread end."""
        self._stopped.set()


@contextmanager
def live_deck(name: str, render: Callable[[], str | None], every_seconds: float) -> Iterator[None]:
    """Within the block, publish what `render` returns as a Deck, with at least `every_seconds` in between; 0 for never.

    What it returned last is still there when the block fails; a Deck of the same name made later takes its place. At
    the end an upload that is under way is waited for, but not for more than 60 s. A laptop has nobody to look at it.
    """
    if is_laptop_run() or not every_seconds:
        yield
        return
    publisher, failures = _Publisher(name, render, every_seconds), _FirstFailure()
    logger.addFilter(failures)
    run = contextvars.copy_context().run
    thread = threading.Thread(target=run, args=(publisher.run,), name=f"deck-{name}", daemon=True)
    thread.start()
    try:
        yield
    finally:
        publisher.stop()
        thread.join(_LAST_UPLOAD_SECONDS)
        publisher.update()
        logger.removeFilter(failures)
        if failures.num_failed:
            print(f"warning: the Deck {name} could not be published {failures.num_failed} times", flush=True)

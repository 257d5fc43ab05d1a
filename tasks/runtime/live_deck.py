"""A Deck that a thread publishes repeatedly while its task runs. A failure to publish never fails the task."""

from __future__ import annotations

import contextvars
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from flytekit import Deck
from flytekit.loggers import logger

from configs.addresses import without_secrets
from configs.printable import print_line
from tasks.runtime.pods import is_laptop_run

_FAILED = "Failed to write flyte deck html"
_LAST_UPLOAD_SECONDS = 60.0


class _FirstFailureFilter(logging.Filter):
    """Lets flytekit log only the first failure to write a Deck."""

    num_failed = 0

    def filter(self, record: logging.LogRecord) -> bool:
        if not record.getMessage().startswith(_FAILED):
            return True
        self.num_failed += 1
        return self.num_failed == 1


class _Publisher:
    """Renders and publishes one Deck. `render` returns HTML, or None if nothing has changed."""

    def __init__(self, name: str, render: Callable[[], str | None], every_seconds: float) -> None:
        self.deck: Deck | None = None
        self._name, self._render, self._every_seconds = name, render, every_seconds
        self._stopped = threading.Event()
        self._has_failed = False

    def update(self) -> bool:
        """Render the Deck anew; return whether its content changed."""
        try:
            html = self._render()
        # no error of the Deck may stop the task's work
        except Exception as error:
            if not self._has_failed:
                what = without_secrets(repr(error))[:200]
                print_line(f"warning: the Deck {self._name} is not shown while the task runs: {what}")
            self._has_failed = True
            return False
        if html is None:
            return False
        if self.deck is None:
            self.deck = Deck(self._name, "")
        self.deck._html = html
        return True

    def run(self) -> None:
        """Publish the Deck repeatedly until `stop` is called."""
        published_at = float("-inf")
        while not self._stopped.wait(min(1.0, self._every_seconds / 4)):
            if time.monotonic() - published_at >= self._every_seconds and self.update():
                Deck.publish()
                published_at = time.monotonic()

    def stop(self) -> None:
        """End the thread after its current upload."""
        self._stopped.set()


@contextmanager
def live_deck(name: str, render: Callable[[], str | None], every_seconds: float) -> Iterator[None]:
    """Within the block, publish what `render` returns as a Deck, at most every `every_seconds`; with 0, never.

    If the block fails, the Deck keeps the last content. A later Deck of the same name replaces it. The end of the block
    waits at most 60 s for a running upload. On a laptop nothing is published.
    """
    if is_laptop_run() or not every_seconds:
        yield
        return
    publisher, failures = _Publisher(name, render, every_seconds), _FirstFailureFilter()
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
            print_line(f"warning: the Deck {name} could not be published {failures.num_failed} times")

"""Who looks on while training runs, besides its own log, and hears how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformers import TrainerCallback


class Observer(TrainerCallback):
    """A callback that changes nothing of the training. Logs that it sees have `tokens_per_second` and `seconds_left`,
    where these are known."""

    def ended(self, error: BaseException | None) -> None:
        """Called once, after training, or with what ended it; must not raise."""


@contextmanager
def told_the_end(observers: Sequence[Observer]) -> Iterator[None]:
    """Within the block training runs; its end, or its error, is told to all `observers`."""
    try:
        yield
    except BaseException as error:
        for each in observers:
            each.ended(error)
        raise
    for each in observers:
        each.ended(None)

"""Observers follow a training while it runs, and are told how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from transformers import TrainerCallback


class Observer(TrainerCallback):
    """A callback that does not change the training. Its logs have `tokens_per_second` and `seconds_left` once known."""

    def ended(self, error: BaseException | None) -> None:
        """Called once: with None after training, or with the error that ended it. Must not raise."""


@contextmanager
def end_observed(observers: Sequence[Observer]) -> Iterator[None]:
    """Call `ended` of all `observers` when the block ends, with the error if it raises one."""
    try:
        yield
    except BaseException as error:
        for observer in observers:
            observer.ended(error)
        raise
    for observer in observers:
        observer.ended(None)

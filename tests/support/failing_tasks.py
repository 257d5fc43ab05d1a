"""Tasks that fail in chosen ways, to test what Flyte's console shows of it."""

from __future__ import annotations

from functools import partial

from flytekit import Deck, dynamic, task

from configs.errors import ConfigError, DataError, RetryError
from tasks.runtime.live_deck import live_deck
from tasks.runtime.pods import DECK_FIELDS
from tasks.runtime.shown_errors import shows_errors


def fail(how: str) -> None:
    if how == "refused":
        raise ConfigError("train.batch_size=30 is <not> a multiple of 8\nset train.batch_size=32")
    if how == "caused":
        try:
            raise KeyError("prompt")
        except KeyError as error:
            raise DataError("rows.jsonl has no column prompt") from error
    if how == "meanwhile":
        try:
            raise KeyError("prompt")
        except KeyError:
            raise DataError("rows.jsonl has no column prompt")  # noqa: B904
    if how == "retry":
        raise RetryError("the store went away")
    if how == "defect":
        raise KeyError("content of a row")


@task(enable_deck=True, deck_fields=DECK_FIELDS)
@shows_errors
def with_decks(how: str) -> str:
    """Show a Deck, and then fail."""
    Deck("rows", "<p>the rows</p>")
    with live_deck("progress", lambda: "<p>half of it</p>", 60):
        fail(how)
    return how


@task
@shows_errors
def without_decks(how: str) -> str:
    fail(how)
    return how


def without_store(error: Exception) -> None:
    raise OSError("the store cannot be reached")


@task
@partial(shows_errors, publish=without_store)
def with_lost_deck(how: str) -> str:
    fail(how)
    return how


@task
def unmarked(how: str) -> str:
    fail(how)
    return how


@dynamic(enable_deck=True, deck_fields=DECK_FIELDS)
@shows_errors
def starting_others(how: str) -> str:
    fail(how)
    return without_decks(how=how)

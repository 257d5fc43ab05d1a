"""An end to the rendering of chat templates: they are programs, and may loop without end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from configs.errors import ModelError
from tasks.files.waiting import NoAnswerError, waiting_for

TEMPLATE_SECONDS = 10.0
"""A template writes a conversation in milliseconds; one that loops fills gigabytes of memory in a minute."""


@contextmanager
def ending(title: str, place: str = "") -> Iterator[None]:
    """Within the block, render one conversation; `title` and `place`, such as a row's id, are for messages.

    Raises:
        ModelError: the template does not end.
    """
    where = f" at {place}" if place else ""
    try:
        with waiting_for(f"{title}{where} to end", TEMPLATE_SECONDS):
            yield
    except NoAnswerError as error:
        raise ModelError(
            f"{title} does not end{where}: it was stopped after {error.seconds:g} s\n"
            "repair its loops, or set tokenize.chat_template to another template"
        ) from None

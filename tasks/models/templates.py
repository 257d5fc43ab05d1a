"""An end to the rendering of chat templates: they are programs, which may loop without end or fill the memory."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import Lock
from typing import Any

from configs.errors import ModelError
from configs.printable import one_line
from tasks.files.waiting import NoAnswerError, waiting_for
from tasks.models import template_bounds
from tasks.models.template_bounds import MOST_CHARACTERS, TOO_MUCH, TooMuchError

TEMPLATE_SECONDS = 10.0
"""A template writes a conversation in milliseconds; one that loops fills gigabytes of memory in a minute."""
_START_SECONDS = 120.0
"""The process that tries a template begins in a second, but its files may be on a slow disk."""
_TOOL = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Look up",
        "parameters": {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]},
    },
}
_TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "question"},
    {"role": "assistant", "content": "answer"},
]
_SAMPLES: list[dict[str, Any]] = [
    {"turns": _TURNS[1:], "tools": None},
    {"turns": _TURNS[:2], "tools": None},
    {"turns": [*_TURNS, *_TURNS[1:]], "tools": [_TOOL]},
]
_tried: set[str] = set()
_trying = Lock()


@contextmanager
def ending(title: str, place: str = "") -> Iterator[None]:
    """Within the block, render one conversation; `title` and `place`, such as a row's id, are for messages.

    Raises:
        ModelError: the template does not end, or takes too much memory.
    """
    template_bounds.use_bounded_templates()
    try:
        with template_bounds.bounded_memory(), waiting_for(f"{title}{_where(place)} to end", TEMPLATE_SECONDS):
            yield
    except NoAnswerError:
        raise _endless(title, place) from None
    except TooMuchError as error:
        raise _too_much(title, place, error) from None


def accepted(text: str, title: str, place: str = "") -> str:
    """Return a rendered conversation.

    Raises:
        ModelError: it is longer than any model reads.
    """
    if len(text) > MOST_CHARACTERS:
        raise _too_much(title, place, f"a conversation of more than {MOST_CHARACTERS:,} characters")
    return text


def try_apart(
    title: str,
    template: str,
    variables: Mapping[str, Any],
    turns: list[dict[str, Any]] | None = None,
    tools: list[Any] | None = None,
    place: str = "",
) -> None:
    """Render `turns` and a few samples in a process of its own, once per template and process.

    What one operation of C does without end, or in gigabytes, ends there and not here.

    Raises:
        ModelError: the template does not end, takes too much memory, or ends the process.
    """
    if template in _tried:
        return
    with _trying:
        if template in _tried:
            return
        given = [{"turns": turns, "tools": tools}] if turns else []
        trial: dict[str, Any] = {
            "template": template,
            "variables": dict(variables),
            "conversations": [*given, *_SAMPLES],
            "seconds": TEMPLATE_SECONDS,
        }
        try:
            with waiting_for(f"{title}{_where(place)} to end", math.inf):
                ended = subprocess.run(
                    # with -P the folder of the file is not searched for modules
                    [sys.executable, "-P", template_bounds.__file__],
                    input=json.dumps(trial, default=str),
                    capture_output=True,
                    text=True,
                    timeout=_START_SECONDS + 2 * len(trial["conversations"]) * TEMPLATE_SECONDS,
                )
        except subprocess.TimeoutExpired:
            raise _endless(title, place) from None
        if ended.returncode == TOO_MUCH:
            raise _too_much(title, place, ended.stdout)
        if ended.returncode == -signal.SIGALRM:
            raise _endless(title, place)
        if ended.returncode:
            raise ModelError(
                f"{title} ends the process that renders it{_where(place)} (exit status {ended.returncode})\n"
                "free memory and run again, or set tokenize.chat_template to another template"
            )
        _tried.add(template)


def _where(place: str) -> str:
    return f" at {place}" if place else ""


def _endless(title: str, place: str) -> ModelError:
    return ModelError(
        f"{title} does not end{_where(place)}: it was stopped after {TEMPLATE_SECONDS:g} s\n"
        "repair its loops, or set tokenize.chat_template to another template"
    )


def _too_much(title: str, place: str, reason: object) -> ModelError:
    return ModelError(
        f"{title} computes too much{_where(place)}: {one_line(reason)}\n"
        "repair it, or set tokenize.chat_template to another template"
    )

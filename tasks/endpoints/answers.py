"""Lets another model behind an endpoint answer the held-out rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tasks.endpoints.client import Endpoint
from tasks.endpoints.messages import ChatRequest, Reply


def answer_rows(
    endpoint: Endpoint, prompts: Sequence[Sequence[Mapping[str, str]]], max_new_tokens: int, stop: Sequence[str] = ()
) -> list[Reply]:
    """Return a reply to each conversation of `prompts` [rows][turns], each turn with `role` and `content`.

    Decoding is greedy (temperature 0), as far as the server has it so. A reply ends at an end token or a text of `stop`
    (`finish_reason` is `stop`), or after `max_new_tokens` tokens (`length`). Rows without an answer have an `error`.

    Raises:
        ConfigError: as `Endpoint.ask`.
    """
    return endpoint.ask([ChatRequest(tuple(turns), max_new_tokens, stop=tuple(stop)) for turns in prompts])

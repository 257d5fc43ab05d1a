"""What is asked of a model behind an endpoint, and what it replied: OpenAI's chat completions, as values.

A server's answer is a stranger's JSON. It is read within bounds, and what is not of the form becomes a reply with an
error, never an exception.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from configs.foreign_json import JsonFault, parse_object

MOST_BYTES = 2**20
"""Most bytes of an answer of a server."""
UNREADABLE = "an answer that is no chat completion"
CUT = "length"
"""The `finish_reason` of an answer that ended at `max_tokens`."""
_MOST_ALTERNATIVES = 20
_MOST_COUNTED = 2**40


@dataclass(frozen=True)
class ChatRequest:
    """One question to a model. `repeat` tells apart the same question asked again; it is not sent."""

    messages: Sequence[Mapping[str, Any]]
    """Each with the keys `role` and `content`; those of a conversation with tools also as OpenAI's API names them."""
    max_tokens: int
    temperature: float = 0.0
    top_logprobs: int = 0
    """Log-probabilities of so many alternatives of each token; 0 for none."""
    stop: tuple[str, ...] = ()
    tools: tuple[Mapping[str, Any], ...] = ()
    """Definitions of tools, as OpenAI's API takes them."""
    repeat: int = 0

    def body(self, model: str) -> dict[str, Any]:
        """Return what is sent, as OpenAI's API names it."""
        body: dict[str, Any] = {
            "model": model,
            "messages": [_sendable(dict(turn)) for turn in self.messages],
            "max_tokens": self.max_tokens,
            "temperature": self.temperature,
        }
        if self.top_logprobs:
            body |= {"logprobs": True, "top_logprobs": self.top_logprobs}
        if self.tools:
            body["tools"] = [_sendable(dict(tool)) for tool in self.tools]
        if self.stop:
            body["stop"] = [without_surrogates(text) for text in self.stop]
        return body


@dataclass(frozen=True)
class Token:
    """A token of a reply with its alternatives: text and natural logarithm of its probability."""

    text: str
    alternatives: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Reply:
    """What a model replied. With an `error`, there is no reply: why, in words that hold nothing of a row or a key."""

    text: str = ""
    finish_reason: str = ""
    """As the server reports it: `stop`, `length` for one that ended at `max_tokens`, `content_filter`."""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    """Tokens as the server counts them; None where it does not."""
    is_refusal: bool = False
    """The server itself says that the model refused."""
    tokens: tuple[Token, ...] = field(default=(), repr=False)
    """The reply's tokens, where log-probabilities were asked for and returned."""
    calls: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    """Calls of tools: name, and arguments as the server's JSON text."""
    reasoning: str = field(default="", repr=False)
    """What the server returns of the model's reasoning, apart from the reply."""
    error: str = ""


def read_completion(content: bytes) -> Reply:
    """Return the reply in the body of a server's answer; one that is no chat completion has the error `UNREADABLE`.

    Lone surrogates, which JSON can hold and UTF-8 cannot, become U+FFFD.
    """
    try:
        body = parse_object(content, MOST_BYTES)
    except JsonFault:
        return Reply(error=UNREADABLE)
    choices = body.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return Reply(error=UNREADABLE)
    text, refusal = message.get("content"), message.get("refusal")
    if not isinstance(text, str | None) or not isinstance(refusal, str | None):
        return Reply(error=UNREADABLE)
    reason, usage = choice.get("finish_reason"), body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Reply(
        text=without_surrogates(text or ""),
        finish_reason=without_surrogates(reason)[:40] if isinstance(reason, str) else "",
        prompt_tokens=_count(usage.get("prompt_tokens")),
        completion_tokens=_count(usage.get("completion_tokens")),
        is_refusal=bool(refusal) or reason == "content_filter",
        tokens=_tokens(choice.get("logprobs")),
        calls=_calls(message.get("tool_calls")),
        reasoning=_reasoning(message),
    )


def _sendable(value: Any) -> Any:
    """Return JSON content without lone surrogates, which UTF-8 cannot hold."""
    if isinstance(value, dict):
        return {without_surrogates(str(key)): _sendable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_sendable(item) for item in value]
    return without_surrogates(value) if isinstance(value, str) else value


def _calls(value: Any) -> tuple[tuple[str, str], ...]:
    """Return (name, arguments) of each call of a tool; those that are not of the form are left out."""
    calls = []
    for entry in value if isinstance(value, list) else ():
        function = entry.get("function") if isinstance(entry, dict) else None
        name, arguments = (function.get("name"), function.get("arguments")) if isinstance(function, dict) else (0, 0)
        if isinstance(name, str) and isinstance(arguments, str):
            calls.append((without_surrogates(name), without_surrogates(arguments)))
    return tuple(calls)


def _reasoning(message: Mapping[str, Any]) -> str:
    """Return the reasoning under one of the names that servers use for it."""
    found = next((text for name in ("reasoning_content", "reasoning") if (text := message.get(name))), "")
    return without_surrogates(found) if isinstance(found, str) else ""


def without_surrogates(text: str) -> str:
    """Return `text` with U+FFFD for each half of a surrogate pair that stands alone."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _count(value: Any) -> int | None:
    is_count = isinstance(value, int) and not isinstance(value, bool) and 0 <= value < _MOST_COUNTED
    return value if is_count else None


def _tokens(value: Any) -> tuple[Token, ...]:
    """Return the tokens of `choices[0].logprobs`; none where one of them is not of the form."""
    entries = value.get("content") if isinstance(value, dict) else None
    tokens = []
    for entry in entries if isinstance(entries, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
            return ()
        found = entry.get("top_logprobs")
        alternatives = [_alternative(other) for other in found[:_MOST_ALTERNATIVES]] if isinstance(found, list) else []
        tokens.append(Token(entry["token"], tuple(pair for pair in alternatives if pair is not None)))
    return tuple(tokens)


def _alternative(value: Any) -> tuple[str, float] | None:
    """Return (text, log-probability) of an alternative, or None: a probability above 1 or a NaN is none."""
    if not isinstance(value, dict) or not isinstance(value.get("token"), str):
        return None
    number = value.get("logprob")
    if not isinstance(number, int | float) or isinstance(number, bool) or math.isnan(number) or number > 1e-3:
        return None
    return value["token"], min(0.0, float(number))

"""Reads a judgment out of a judge's reply, or the reason why there is none.

A judge may be talked into anything, or quote what it judges. So a judgment is one JSON object that ends the reply, with
the key that was asked for; of text around it nothing is read. What is not of that form is no judgment: it is counted,
and never guessed at.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from configs.foreign_json import JsonFault, parse_json
from tasks.endpoints.messages import CUT, Reply, Token

NONSENSE = "nonsense"
OUT_OF_RANGE = "out of range"
CUT_SHORT = "cut short"
REFUSED = "refused"
LOWEST, HIGHEST = 1, 5
_LONGEST = 50_000
_THOUGHT = re.compile(r"^\s*<think>.*?</think>", re.DOTALL)
_FENCE = re.compile(r"^[ \t]*```\w*[ \t]*$", re.MULTILINE)
_SCORE = re.compile(r'"score"\s{0,8}:\s{0,8}"?\s{0,8}([0-9])')
# of probabilities that the server shows, so much must be those of scores
_LEAST_PROBABILITY = 0.5


@dataclass(frozen=True)
class Judgment:
    """A judgment: `value` as the measure of a row, `stated` as the judge wrote it. With a `failure`, both are NaN."""

    value: float = math.nan
    stated: float = math.nan
    failure: str = ""


def read_score(reply: Reply) -> Judgment:
    """Return the score of a reply, 1 to 5.

    `stated` is the number in the reply. Where the server shows the probabilities of the score's token, `value` is the
    mean of the scores 1 to 5 weighted by them, as in G-Eval (Liu et al. 2023, arXiv:2303.16634); else the number.
    """
    return _read(reply, "score", lambda found: _score(found, reply))


def read_choice(reply: Reply) -> Judgment:
    """Return the choice of a reply: 1 where A is better, -1 where B is, 0 for a tie."""
    return _read(reply, "better", _choice)


def read_refusal(reply: Reply) -> Judgment:
    """Return 1 where the judge says that the answer refuses, else 0."""
    return _read(reply, "refuses", _refusal)


def _read(reply: Reply, key: str, read: Callable[[Any], Judgment]) -> Judgment:
    if reply.error:
        return Judgment(failure=reply.error)
    if reply.is_refusal:
        return Judgment(failure=REFUSED)
    if reply.finish_reason == CUT:
        return Judgment(failure=CUT_SHORT)
    found = last_object(reply.text, key)
    return Judgment(failure=NONSENSE) if found is None else read(found[key])


def last_object(text: str, key: str) -> dict[str, Any] | None:
    """Return the JSON object with `key` that ends a text, or None.

    Reasoning before it, prose, and a Markdown fence around it are allowed. The object begins with the first line that
    begins with `{`, or with the first `{` if there is no such line, and never within: a part of what is not JSON as a
    whole may be what the judge quotes.
    """
    text = _THOUGHT.sub("", text[: _LONGEST + 1], count=1).strip()
    if len(text) > _LONGEST:
        return None
    fences = list(_FENCE.finditer(text))
    if len(fences) > 1 and fences[-1].end() == len(text):
        # a JSON text has no line breaks within its strings, so a fence that begins a line is not of a reason
        text = text[fences[-2].end() : fences[-1].start()].strip()
    start = re.search(r"^[ \t]*\{", text, re.MULTILINE)
    try:
        value = parse_json(text[start.end() - 1 if start else max(0, text.find("{")) :], is_strict=True)
    except JsonFault:
        return None
    return value if isinstance(value, dict) and key in value else None


def _score(value: Any, reply: Reply) -> Judgment:
    if isinstance(value, str):
        value = float(value) if re.fullmatch(r"\s*-?\d{1,6}(\.\d{1,6})?\s*", value) else None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return Judgment(failure=NONSENSE)
    if not LOWEST <= value <= HIGHEST:
        return Judgment(failure=OUT_OF_RANGE)
    weighted = weighted_score(reply.tokens, float(value))
    return Judgment(float(value) if weighted is None else weighted, float(value))


def weighted_score(tokens: tuple[Token, ...], stated: float) -> float | None:
    """Return the mean of the scores 1 to 5 by the probabilities of the token that holds the score.

    None where there are no probabilities, no token is the stated score and nothing else, or the scores among its
    alternatives have less than half of the probability.
    """
    found = list(_SCORE.finditer("".join(token.text for token in tokens)))[-1:]
    start, end = 0, 0
    holder = None
    for token in tokens if found else ():
        start, end = end, end + len(token.text)
        if end > found[0].start(1):
            holder = token
            break
    if (
        holder is None
        or start > found[0].start(1)
        or holder.text.strip() != found[0][1]
        or float(found[0][1]) != stated
    ):
        return None
    masses = dict.fromkeys(range(LOWEST, HIGHEST + 1), 0.0)
    for other, logprob in dict(holder.alternatives).items():
        if re.fullmatch(r"[1-5]", other.strip()):
            masses[int(other)] += math.exp(logprob)
    total = math.fsum(masses.values())
    if total < _LEAST_PROBABILITY:
        return None
    return math.fsum(score * mass for score, mass in masses.items()) / total


def _choice(value: Any) -> Judgment:
    choices = {"a": 1.0, "b": -1.0, "tie": 0.0}
    choice = choices.get(value.strip().lower()) if isinstance(value, str) else None
    return Judgment(failure=NONSENSE) if choice is None else Judgment(choice, choice)


def _refusal(value: Any) -> Judgment:
    if isinstance(value, str) and value.strip().lower() in ("true", "false"):
        value = value.strip().lower() == "true"
    return Judgment(float(value), float(value)) if isinstance(value, bool) else Judgment(failure=NONSENSE)

"""Rows longer than `max_length`: refused, left out, or cut, never without being counted."""

from __future__ import annotations

from typing import Any

from configs.errors import DataError
from configs.schema import TokenizeConfig

IGNORED = -100


def fit_record(
    record: dict[str, Any], config: TokenizeConfig, max_length: int, bos_token_id: int | None
) -> dict[str, Any] | None:
    """Return a record of more than `max_length` tokens cut to that length, or None where it is to be left out.

    It is left out under `drop`, and where cutting would leave nothing of the answer or, from the left, of the prompt.

    Raises:
        DataError: under `error`.
    """
    if config.over_length == "error":
        raise DataError(
            f"{record['row_id']}: {len(record['input_ids'])} tokens, tokenize.max_length={max_length}\n"
            "raise tokenize.max_length, or set tokenize.over_length to drop, cut_left or cut_right"
        )
    if config.over_length == "drop":
        return None
    if config.over_length == "cut_left":
        return _cut_left(record, max_length, bos_token_id)
    return _cut_right(record, max_length)


def _cut_right(record: dict[str, Any], max_length: int) -> dict[str, Any] | None:
    labels = record["labels"][:max_length]
    if all(label == IGNORED for label in labels[1:]):
        return None
    # a question whose answer is gone, or that is itself cut, is no longer asked
    asked = record["prompt_length"] if record["prompt_length"] < max_length else 0
    return {**record, "input_ids": record["input_ids"][:max_length], "labels": labels, "prompt_length": asked}


def _cut_left(record: dict[str, Any], max_length: int, bos_token_id: int | None) -> dict[str, Any] | None:
    """Cut the oldest tokens before the last answer; an earlier answer is masked that loses tokens, or its prompt."""
    ids, labels, asked = record["input_ids"], record["labels"], record["prompt_length"]
    opening = 1 if ids[0] == bos_token_id else 0
    kept = max_length - opening - (len(ids) - asked)
    if kept < 1:
        return None
    start = asked - kept
    rest = list(labels[start:])
    for position in range(kept):
        if rest[position] == IGNORED:
            break
        rest[position] = IGNORED
    return {
        **record,
        "input_ids": [*ids[:opening], *ids[start:]],
        "labels": [*labels[:opening], *rest],
        "prompt_length": opening + kept,
    }

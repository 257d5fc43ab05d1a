"""How long rows and answers are where the config does not say."""

from __future__ import annotations

from typing import Any

LONGEST_ROW = 2048
"""Tokens of `tokenize.max_length` where neither the config nor the model's positions are fewer."""
LONGEST_ANSWER = 512
"""Tokens of the longest answer that the evaluation generates, where the config does not say."""
FEWEST_TOKENS = 8
"""The shortest `tokenize.max_length`: what must be left of the positions for a row."""


def positions_of(settings: dict[str, Any]) -> int | None:
    """Return the positions of a model by its config.json, or by the part of it that is of its language model."""
    found = settings.get("max_position_embeddings") or settings.get("n_positions")
    return int(found) if found else None


def longest_row(max_length: int | None, positions: int | None) -> int:
    """Return the most tokens of a row: `max_length` where it is set, else the model's positions, at most 2048."""
    if max_length is not None:
        return max_length
    return min(positions or LONGEST_ROW, LONGEST_ROW)

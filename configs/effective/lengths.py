"""How long rows and answers are if the config does not say."""

from __future__ import annotations

from typing import Any

LONGEST_ROW = 2048
"""Default of `tokenize.max_length`, unless the model has fewer positions."""
LONGEST_ANSWER = 512
"""Most tokens of an answer that the evaluation generates, if the config does not say."""
FEWEST_TOKENS = 8
"""Smallest `tokenize.max_length`, and the fewest positions that must be left for a row."""


def positions_of(settings: dict[str, Any]) -> int | None:
    """Return the positions in `settings`, the config.json of a language model; None if it states none."""
    found = settings.get("max_position_embeddings") or settings.get("n_positions")
    return int(found) if found else None


def longest_row(max_length: int | None, positions: int | None) -> int:
    """Return the most tokens of a row: `max_length` if it is set, else the model's positions, at most 2048."""
    if max_length is not None:
        return max_length
    return min(positions or LONGEST_ROW, LONGEST_ROW)

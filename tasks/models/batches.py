"""Batches of rows for one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

import numpy as np
import torch

# fewer rows make a forward pass slower per row
_FEW_ROWS = 8
# the most tokens of a batch with padding, for each without
_MOST_PADDED = 1.5


def pad(rows: Sequence[Sequence[int]], value: int, side: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ([batch, seq] int64 padded with `value`, [batch, seq] mask with 1 at real tokens)."""
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for position, row in enumerate(rows):
        place = slice(width - len(row), width) if side == "left" else slice(0, len(row))
        ids[position, place] = torch.from_numpy(np.asarray(row, dtype=np.int64))
        mask[position, place] = 1
    return ids, mask


def prompt_batches(lengths: Sequence[int], batch_size: int, longest_prompt: float, one_length: bool) -> list[list[int]]:
    """Return the numbers of rows in batches of similar length, the shortest first.

    A batch of some rows ends early where the next would make a large part of it padding. A prompt over `longest_prompt`
    is a batch by itself: how many tokens may follow depends on its length. With `one_length`, all prompts of a batch
    have the same length, so that none is padded.
    """
    order = sorted(range(len(lengths)), key=lambda row: lengths[row])
    together = [row for row in order if lengths[row] <= longest_prompt]
    groups = [list(group) for _, group in groupby(together, lambda row: lengths[row] if one_length else 0)]
    batches = [
        group[start:end] for group in groups for start, end in _cuts([lengths[row] for row in group], batch_size)
    ]
    return batches + [[row] for row in order if lengths[row] > longest_prompt]


def _cuts(lengths: list[int], batch_size: int) -> list[tuple[int, int]]:
    """Return (start, end) of each batch of rows with these ascending lengths."""
    cuts, start = [], 0
    for end in range(1, len(lengths) + 1):
        is_last = end == len(lengths)
        padded = 0 if is_last else lengths[end] * (end + 1 - start)
        is_padding = end - start >= _FEW_ROWS and padded > _MOST_PADDED * sum(lengths[start : end + 1])
        if is_last or end - start == batch_size or is_padding:
            cuts.append((start, end))
            start = end
    return cuts

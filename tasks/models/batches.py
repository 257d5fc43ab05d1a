"""Batches of rows for one forward pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch


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


def prompt_batches(lengths: pd.Series, batch_size: int, longest_prompt: float, one_length: bool) -> list[pd.Index]:
    """Return the indices of rows in batches of similar length.

    A prompt over `longest_prompt` is a batch by itself: how many tokens may follow depends on its length. With
    `one_length`, all prompts of a batch have the same length, so that none is padded.
    """
    by_length = lengths.sort_values(kind="stable")
    together = by_length[by_length <= longest_prompt]
    alone = by_length.index[by_length > longest_prompt]
    groups = [group.index for _, group in together.groupby(together)] if one_length else [together.index]
    batches = [group[start : start + batch_size] for group in groups for start in range(0, len(group), batch_size)]
    return batches + [alone[position : position + 1] for position in range(len(alone))]

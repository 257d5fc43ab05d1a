"""Whether a model has learned training answers by heart: it is given half of one, and asked for the rest.

A sequence is memorized if greedy decoding continues its prefix word for word (Carlini et al. 2023,
https://arxiv.org/abs/2202.07646). Held-out answers give the share that is guessed without having been seen.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

TRAINING, HELD_OUT_ROWS = "memorized training rows", "memorized held-out rows"
FEWEST_TOKENS = 16
MOST_CONTINUED = 50


def halved(rows: pd.DataFrame, number: int) -> pd.DataFrame:
    """Return at most `number` of `rows`, evenly spread, whose prompt is followed by the first half of the answer.

    Only answers of at least 16 tokens: shorter ones can be guessed. `rows` are token rows; what follows the new prompt
    is cut after 50 tokens. Packed rows have no prompts, and give none.
    """
    if "prompt_length" not in rows or rows.empty:
        return rows.iloc[:0]
    lengths = rows.input_ids.map(len) - rows.prompt_length
    long = rows[(lengths >= FEWEST_TOKENS) & (rows.prompt_length > 0)]
    places = [n * len(long) // min(number, len(long)) for n in range(min(number, len(long)))]
    chosen = long.iloc[places].reset_index(drop=True)
    halves = [
        int(length + (len(ids) - length) // 2)
        for ids, length in zip(chosen.input_ids, chosen.prompt_length, strict=True)
    ]
    ids = [list(row)[: half + MOST_CONTINUED] for row, half in zip(chosen.input_ids, halves, strict=True)]
    return chosen.assign(prompt_length=halves, input_ids=pd.Series(ids, dtype=object))


def continued(rows: pd.DataFrame, generated: Sequence[Sequence[int]]) -> list[float]:
    """Return for each of the `halved` rows 1 if the generated ids begin with all that followed the prefix, else 0."""
    wanted = [list(ids)[length:] for ids, length in zip(rows.input_ids, rows.prompt_length, strict=True)]
    return [float(list(own)[: len(rest)] == rest) for own, rest in zip(generated, wanted, strict=True)]

"""Split rows into train and test by their content: the same rows give the same split, in any order, on any machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator

import pandas as pd


def split_rows(rows: pd.DataFrame, test_fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (train, test), each in the order of `rows`.

    Rows that ask the same (equal prompt, or equal text where there is no prompt; case and white space aside) form a
    group, and a group is never divided: no question of the test set was trained on. Groups are ordered by
    SHA-256(seed, group) and taken into the test set while they fit in `test_fraction` of the rows; where none fits, the
    smallest is taken. Never all groups are. Conversations that open with the same user turn are one group, since one
    may be the start of another.
    """
    groups = [_group(seed, question) for question in _questions(rows)]
    sizes = pd.Series(groups).value_counts()
    wanted = max(1, round(test_fraction * len(rows)))
    chosen: set[str] = set()
    taken = 0
    for group in sorted(sizes.index)[: len(sizes) - 1]:
        if taken + int(sizes[group]) <= wanted:
            chosen.add(group)
            taken += int(sizes[group])
    if not chosen and len(sizes) > 1:
        chosen.add(min(sizes.index, key=lambda group: (sizes[group], group)))
    is_test = pd.Series([group in chosen for group in groups], index=rows.index)
    return rows[~is_test].reset_index(drop=True), rows[is_test].reset_index(drop=True)


def _questions(rows: pd.DataFrame) -> Iterator[str]:
    """Yield what each row asks: its prompt, the first user turn of a conversation, or the whole of a text."""
    for kind, prompt, completion, messages in rows[["kind", "prompt", "completion", "messages"]].itertuples(
        index=False
    ):
        if kind == "messages":
            yield next(turn["content"] for turn in json.loads(messages) if turn["role"] == "user")
        else:
            yield prompt or completion


def _group(seed: int, question: str) -> str:
    key = " ".join(question.casefold().split())
    return hashlib.sha256(f"{seed}\0{key}".encode()).hexdigest()

"""Split rows into train and test by their content: the same rows give the same split, in any order, on any machine."""

from __future__ import annotations

import hashlib

import pandas as pd


def split_rows(rows: pd.DataFrame, test_fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (train, test), each in the order of `rows`.

    Rows that ask the same (equal prompt, or equal text where there is no prompt; case and white space aside) form a
    group, and a group is never divided: no question of the test set was trained on. Groups are ordered by
    SHA-256(seed, group) and taken into the test set until it holds `test_fraction` of the rows, at least one row, and
    never all groups.
    """
    groups = [_group(seed, prompt, completion) for prompt, completion in zip(rows.prompt, rows.completion, strict=True)]
    sizes = pd.Series(groups).value_counts()
    wanted = max(1, round(test_fraction * len(rows)))
    chosen: set[str] = set()
    taken = 0
    for group in sorted(sizes.index)[:-1]:
        if taken >= wanted:
            break
        chosen.add(group)
        taken += int(sizes[group])
    is_test = pd.Series([group in chosen for group in groups], index=rows.index)
    return rows[~is_test].reset_index(drop=True), rows[is_test].reset_index(drop=True)


def _group(seed: int, prompt: str, completion: str) -> str:
    key = " ".join((prompt or completion).casefold().split())
    return hashlib.sha256(f"{seed}\0{key}".encode()).hexdigest()

"""Split rows into train and test by their content: the same rows give the same split, in any order, on any machine."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence

import pandas as pd


def split_rows(rows: pd.DataFrame, test_fraction: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return (train, test), each in the order of `rows`.

    Rows that ask the same (equal prompt, or equal text where there is no prompt; case and white space aside) form a
    group, as do rows with an equal value in column `group`, and a group is never divided. Groups are ordered by
    SHA-256(seed, group) and taken into the test set while they fit in `test_fraction` of the rows; where none fits, the
    smallest is taken. Never all groups are. Conversations that open with the same user turn are one group, since one
    may be the start of another.
    """
    groups = [_digest(seed, group) for group in _joined(list(_questions(rows)), list(rows["group"]))]
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


def mix_by_weight(rows: pd.DataFrame, weights: Sequence[float], seed: int) -> pd.DataFrame:
    """Return `rows` with each one of source i (column `source`) as often as `weights[i]` says, in their order.

    The whole part of a weight is a number of copies. Of what is left, the share of the source's rows with the smallest
    SHA-256(seed, row id) has one more, so that the choice is the same on every machine.
    """
    copies = pd.Series(1, index=rows.index)
    for number, weight in enumerate(weights):
        own = rows[rows.source == number]
        if own.empty or weight == 1.0:
            continue
        order = own.row_id.map(lambda row_id: _digest(seed, row_id)).sort_values(kind="stable")
        extra = order.index[: round((weight - int(weight)) * len(own))]
        copies[own.index] = int(weight)
        copies[extra] += 1
    return rows.loc[rows.index.repeat(copies)].reset_index(drop=True)


def _joined(questions: list[str], keys: list[str | None]) -> list[str]:
    """Return a name of each row's group: rows with an equal question or an equal key, over any chain, have one name."""
    parents: dict[str, str] = {}

    def root(name: str) -> str:
        while parents.setdefault(name, name) != name:
            parents[name] = parents[parents[name]]
            name = parents[name]
        return name

    names = [" ".join(question.casefold().split()) for question in questions]
    for name, key in zip(names, keys, strict=True):
        if key is not None:
            first, second = sorted((root(name), root(f"\0{key}")))
            parents[second] = first
    return [root(name) for name in names]


def _questions(rows: pd.DataFrame) -> Iterator[str]:
    """Yield what each row asks: its prompt, the first user turn of a conversation, or the whole of a text."""
    for prompt, completion, messages in rows[["prompt", "completion", "messages"]].itertuples(index=False):
        if messages:
            yield next((str(turn["content"]) for turn in json.loads(messages) if turn["role"] == "user"), prompt)
        else:
            yield prompt or completion


def _digest(seed: int, group: str) -> str:
    return hashlib.sha256(f"{seed}\0{group}".encode()).hexdigest()

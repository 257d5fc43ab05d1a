"""Split rows into train and test by their content: the same rows give the same split, in any order, on any machine."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.get_data.all_rows import Mask, Positions
from tasks.get_data.fingerprints import seeded_order
from tasks.get_data.hashed_texts import Digests, firsts_of_equals


def choose_test_rows(questions: Digests, keys: Digests, may_be_held_out: Mask, test_fraction: float) -> Mask:
    """Return which rows are held out.

    `questions` are seeded hashes of what each row asks, `keys` of its `data.group_by` value, 0 where it has none. Rows
    with an equal question or an equal key, over any chain, form a group, and a group is never divided. Groups are
    ordered by their lowest question and taken into the test set while they fit in `test_fraction` of the rows that may
    be held out; where none fits, the smallest is taken. Never all groups are, nor one with a row that may not be held
    out. Conversations that open with the same user turn are one group, since one may be the start of another.
    """
    groups = _groups(questions, keys)
    names, members = np.unique(groups, return_inverse=True)
    sizes = np.bincount(members, minlength=len(names))
    is_free = np.bincount(members[~may_be_held_out], minlength=len(names)) == 0
    # the name of a group is the position of its lowest question
    order = np.lexsort((questions[names][:, 1], questions[names][:, 0]))
    free = order[is_free[order]]
    wanted = max(1, round(test_fraction * int(may_be_held_out.sum())))
    chosen = np.zeros(len(names), dtype=bool)
    taken = 0
    for group in (free[:-1] if len(free) == len(names) else free).tolist():
        if taken + int(sizes[group]) <= wanted:
            chosen[group] = True
            taken += int(sizes[group])
    if not chosen.any() and len(names) > 1 and len(free):
        chosen[min(free.tolist(), key=lambda group: int(sizes[group]))] = True
    return chosen[members]


def copies_by_weight(contents: Digests, sources: Positions, weights: Sequence[float], seed: int) -> Positions:
    """Return how often each row is used: for a row of source i, `weights[i]` times on average over the source.

    The whole part of a weight is a number of copies. Of what is left, the share of the source's rows with the smallest
    SHA-256(seed, content) has one more, so that the choice is the same on every machine.
    """
    copies = np.ones(len(contents), dtype=np.int64)
    for number, weight in enumerate(weights):
        own = np.flatnonzero(sources == number)
        if weight != 1.0 and len(own):
            copies[own] = int(weight)
            extra = seeded_order(contents[own], seed)[: round((weight - int(weight)) * len(own))]
            copies[own[extra]] += 1
    return copies


def _groups(questions: Digests, keys: Digests) -> Positions:
    """Return for each row the position of the row with the lowest question of its group."""
    by_question = firsts_of_equals(questions)
    with_key = np.flatnonzero(keys.any(axis=1))
    parents = by_question.copy()

    def root(position: int) -> int:
        while parents[position] != position:
            parents[position] = parents[parents[position]]
            position = int(parents[position])
        return position

    first_of_key = with_key[firsts_of_equals(keys[with_key])]
    for position, first in zip(with_key.tolist(), first_of_key.tolist(), strict=True):
        one, other = root(position), root(first)
        if one != other:
            low, high = sorted((one, other), key=lambda place: tuple(questions[place].tolist()))
            parents[high] = low
    if not len(with_key):
        return by_question
    return np.array([root(position) for position in range(len(parents))], dtype=np.int64)

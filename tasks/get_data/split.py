"""Split rows into train and test by their content: the same rows, in any order, give the same split everywhere."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tasks.get_data.all_rows import Mask, Positions
from tasks.get_data.fingerprints import seeded_order
from tasks.get_data.hashed_texts import Digests, firsts_of_equals


def choose_test_rows(questions: Digests, keys: Digests, may_be_held_out: Mask, test_fraction: float) -> Mask:
    """Return the mask of the held-out rows.

    `questions` are seeded hashes of each row's question, `keys` of its `data.group_by` value, 0 where it has none. Rows
    that share a question or a key, directly or through other rows, form a group, and a group is never divided. In the
    order of their lowest questions, groups enter the test set while they fit in `test_fraction` of the rows that may be
    held out; if none fits, the smallest does. At least one group stays for training, and so does each group with a row
    that may not be held out. Conversations with the same first user turn share a question, and so a group: one may
    continue the other.
    """
    row_roots = _group_roots(questions, keys)
    roots, group_of_row = np.unique(row_roots, return_inverse=True)
    sizes = np.bincount(group_of_row, minlength=len(roots))
    is_eligible = np.bincount(group_of_row[~may_be_held_out], minlength=len(roots)) == 0
    order = np.lexsort((questions[roots][:, 1], questions[roots][:, 0]))
    eligible = order[is_eligible[order]]
    max_rows = max(1, round(test_fraction * int(may_be_held_out.sum())))
    is_chosen = np.zeros(len(roots), dtype=bool)
    num_rows = 0
    for group in (eligible[:-1] if len(eligible) == len(roots) else eligible).tolist():
        if num_rows + int(sizes[group]) <= max_rows:
            is_chosen[group] = True
            num_rows += int(sizes[group])
    if not is_chosen.any() and len(roots) > 1 and len(eligible):
        is_chosen[min(eligible.tolist(), key=lambda group: int(sizes[group]))] = True
    return is_chosen[group_of_row]


def copies_by_weight(contents: Digests, sources: Positions, weights: Sequence[float], seed: int) -> Positions:
    """Return how many copies of each row are used: on average `weights[i]` for the rows of source i.

    Every row has as many copies as the whole part of its weight. The fraction is the share of rows with one copy more:
    those with the smallest SHA-256(seed, content), so that the choice is the same on every machine.
    """
    copies = np.ones(len(contents), dtype=np.int64)
    for number, weight in enumerate(weights):
        rows = np.flatnonzero(sources == number)
        if weight != 1.0 and len(rows):
            copies[rows] = int(weight)
            extra = seeded_order(contents[rows], seed)[: round((weight - int(weight)) * len(rows))]
            copies[rows[extra]] += 1
    return copies


def _group_roots(questions: Digests, keys: Digests) -> Positions:
    """Return for each row the root of its group: the position of the group's row with the lowest question."""
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
            low, high = sorted((one, other), key=lambda row: tuple(questions[row].tolist()))
            parents[high] = low
    if not len(with_key):
        return by_question
    return np.array([root(position) for position in range(len(parents))], dtype=np.int64)

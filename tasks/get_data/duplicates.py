"""Which rows repeat others: exactly, nearly, by asking what a held-out row asks, or by answering it otherwise."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from configs.schema import DataConfig
from tasks.get_data.all_rows import AllRows, Mask, Positions
from tasks.get_data.dedup import has_shingles, near_clusters
from tasks.get_data.hashed_texts import firsts_of_equals

_ONE_ANSWER = pa.DataFrameSchema({"num_answers": pa.Column(int, pa.Check.equal_to(1, name="conflict"))})


class Repeats(NamedTuple):
    """Rows that leave: their positions, and for each the row that stays. `check` and `words` say why."""

    check: Literal["duplicate", "leak"]
    words: str
    positions: Positions
    originals: Positions


def conflicts(rows: AllRows, among: Mask) -> Positions:
    """Return the pairs whose prompt has another completion elsewhere; other kinds may differ by design."""
    pairs = np.flatnonzero(among & rows.digests["answer"].any(axis=1) & (rows.roles != "evaluation"))
    prompts = firsts_of_equals(rows.digests["asked"][pairs])
    answers = firsts_of_equals(rows.digests["answer"][pairs])
    distinct = np.unique(np.column_stack([prompts, answers]), axis=0)[:, 0]
    num_answers = np.bincount(distinct, minlength=len(pairs))[prompts] if len(pairs) else prompts
    try:
        _ONE_ANSWER.validate(pd.DataFrame({"num_answers": num_answers}), lazy=True)
        return np.empty(0, dtype=np.int64)
    except SchemaErrors as errors:
        return pairs[np.sort(errors.failure_cases["index"].to_numpy(dtype=np.int64))]


def duplicates(rows: AllRows, valid: Mask, config: DataConfig) -> list[Repeats]:
    """Return the rows that repeat one that stays: an earlier one, or one that is held out, wherever it stands.

    The whole text of a row and its label count. Rows of `test` sources and of evaluation sets are never removed: a
    score is only comparable on the whole of a set.
    """
    if config.deduplicate == "none":
        return []
    order = _held_out_first(rows, np.flatnonzero(valid))
    firsts = order[firsts_of_equals(rows.digests["content"][order])]
    exact = _removed(rows, order, firsts)
    found = _told_apart(rows, "is the same as", *exact)
    if config.deduplicate == "near":
        left = order[firsts == order]
        signed = rows.signatures(left)
        left, signed = left[has_shingles(signed)], signed[has_shingles(signed)]
        roots = left[near_clusters(signed, lambda place: rows.text(int(left[place])), config.near_threshold)]
        found += _told_apart(rows, "is nearly the same as", *_removed(rows, left, roots))
    return [each for each in found if len(each.positions)]


def _told_apart(rows: AllRows, words: str, positions: Positions, originals: Positions) -> list[Repeats]:
    """Return the rows that repeat training rows, and those that repeat held-out ones: the latter would be leaks."""
    is_leak = _is_held_out(rows)[originals]
    return [
        Repeats("duplicate", words, positions[~is_leak], originals[~is_leak]),
        Repeats("leak", words, positions[is_leak], originals[is_leak]),
    ]


def leaks(rows: AllRows, valid: Mask) -> list[Repeats]:
    """Return training rows that ask what a row of a given held-out set asks, or share its `data.group_by` value."""
    held_out = np.flatnonzero(valid & _is_held_out(rows))
    others = np.flatnonzero(valid & ~_is_held_out(rows))
    found = []
    for name, words in (("asked", "asks the same as"), ("group", "is of the same group as")):
        both = np.concatenate([held_out, others])
        digests = rows.digests[name][both]
        firsts = both[firsts_of_equals(digests)]
        leaked = _is_held_out(rows)[firsts] & ~_is_held_out(rows)[both] & digests.any(axis=1)
        positions, order = np.unique(both[leaked], return_index=True)
        found.append(Repeats("leak", words, positions, firsts[leaked][order]))
        others = np.setdiff1d(others, positions)
    return [each for each in found if len(each.positions)]


def _is_held_out(rows: AllRows) -> Mask:
    return (rows.roles == "test") | (rows.roles == "evaluation")


def _held_out_first(rows: AllRows, positions: Positions) -> Positions:
    rank = np.where(rows.roles[positions] == "evaluation", 0, np.where(rows.roles[positions] == "test", 1, 2))
    return positions[np.argsort(rank, kind="stable")]


def _removed(rows: AllRows, positions: Positions, originals: Positions) -> tuple[Positions, Positions]:
    """Return (positions, originals) of what leaves, ascending."""
    leaves = (positions != originals) & ~_is_held_out(rows)[positions]
    order = np.argsort(positions[leaves])
    return positions[leaves][order], originals[leaves][order]

"""Find rows that repeat others: exact and near duplicates, leaks of held-out rows, and conflicting answers."""

from __future__ import annotations

from functools import partial
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import pandera.pandas as pa
from numpy.typing import NDArray
from pandera.errors import SchemaErrors

from configs.schema import DataConfig
from tasks.get_data.all_rows import AllRows, Mask, Positions
from tasks.get_data.dedup import has_shingles, near_clusters
from tasks.get_data.hashed_texts import firsts_of_equals

_SAME_PROMPT = ("prompt", "has the same prompt, apart from case and white space, as")
_ONE_ANSWER = pa.DataFrameSchema({"num_answers": pa.Column(int, pa.Check.equal_to(1, name="conflict"))})


class Repeats(NamedTuple):
    """Rows to remove, and for each the original, which stays. The id of the original completes `reason`."""

    check: Literal["duplicate", "leak"]
    reason: str
    positions: Positions
    originals: Positions


def conflicts(rows: AllRows, candidates: Mask, config: DataConfig) -> Positions:
    """Return the pairs whose prompt has a different completion in another pair; in other kinds answers may differ.

    Prompts are compared as rows are: exactly, because indentation may be part of the question, or apart from case and
    white space with `normalized` and `near`. Answers that differ in case or white space only do not conflict.
    """
    pairs = np.flatnonzero(candidates & rows.digests["answer"].any(axis=1) & (rows.roles != "evaluation"))
    name = "prompt" if config.deduplicate in ("normalized", "near") else "exact_prompt"
    prompts = firsts_of_equals(rows.digests[name][pairs])
    answers = firsts_of_equals(rows.digests["answer"][pairs])
    distinct = np.unique(np.column_stack([prompts, answers]), axis=0)[:, 0]
    num_answers = np.bincount(distinct, minlength=len(pairs))[prompts] if len(pairs) else prompts
    try:
        _ONE_ANSWER.validate(pd.DataFrame({"num_answers": num_answers}), lazy=True)
        return np.empty(0, dtype=np.int64)
    except SchemaErrors as errors:
        return pairs[np.sort(errors.failure_cases["index"].to_numpy(dtype=np.int64))]


def duplicates(rows: AllRows, valid: Mask, config: DataConfig) -> list[Repeats]:
    """Return the rows that repeat an earlier row, or a row of a given held-out set, wherever it stands.

    Rows are compared by all their columns, as `config.deduplicate` says: `exact` in Unicode form NFC, `normalized` and
    `near` apart from case and white space too, and `near` then by similarity. Rows of `test` sources and of evaluation
    sets are never removed: scores are comparable only on a whole set.
    """
    if config.deduplicate == "none":
        return []
    order = _held_out_first(rows, np.flatnonzero(valid))
    firsts = order[firsts_of_equals(rows.digests["content"][order])]
    same = "is the same as" if config.deduplicate == "exact" else "is the same, apart from case and white space, as"
    found = _duplicates_and_leaks(rows, same, order, firsts)
    if config.deduplicate == "near":
        distinct = order[firsts == order]
        minhashes = rows.signatures(distinct)
        distinct, minhashes = distinct[has_shingles(minhashes)], minhashes[has_shingles(minhashes)]
        originals = _near_originals(rows, distinct, minhashes, config.near_threshold)
        found += _duplicates_and_leaks(rows, "is nearly the same as", distinct, originals)
    return [repeats for repeats in found if len(repeats.positions)]


def _near_originals(rows: AllRows, positions: Positions, minhashes: NDArray[np.uint32], threshold: float) -> Positions:
    """Return for each row the first one that it nearly repeats, or itself; only rows with the same tools are compared.

    The definitions are no part of the compared texts: many different rows share one long list of tools.
    """
    originals = positions.copy()
    firsts = firsts_of_equals(rows.digests["tools"][positions])
    order = np.argsort(firsts, kind="stable")
    for members in np.split(order, np.flatnonzero(np.diff(firsts[order])) + 1):
        if len(members) > 1:
            clusters = near_clusters(minhashes[members], partial(_text_of, rows, positions[members]), threshold)
            originals[members] = positions[members][clusters]
    return originals


def _text_of(rows: AllRows, positions: Positions, index: int) -> str:
    return rows.text(int(positions[index]))


def _duplicates_and_leaks(rows: AllRows, reason: str, positions: Positions, originals: Positions) -> list[Repeats]:
    """Return (duplicates of training rows, leaks of held-out rows) among rows and the originals that they repeat."""
    is_repeat = (positions != originals) & ~_is_held_out(rows)[positions]
    order = np.argsort(positions[is_repeat])
    positions, originals = positions[is_repeat][order], originals[is_repeat][order]
    is_leak = _is_held_out(rows)[originals]
    return [
        Repeats("duplicate", reason, positions[~is_leak], originals[~is_leak]),
        Repeats("leak", reason, positions[is_leak], originals[is_leak]),
    ]


def leaks(rows: AllRows, valid: Mask) -> list[Repeats]:
    """Return training rows that have the prompt or the `data.group_by` value of a row of a given held-out set.

    Prompts are compared apart from case and white space, whatever `data.deduplicate` is: a question that was trained in
    other letters still raises the score.
    """
    held_out = np.flatnonzero(valid & _is_held_out(rows))
    training = np.flatnonzero(valid & ~_is_held_out(rows))
    found = []
    for name, reason in (_SAME_PROMPT, ("group", "is of the same group as")):
        both = np.concatenate([held_out, training])
        digests = rows.digests[name][both]
        firsts = both[firsts_of_equals(digests)]
        is_leak = _is_held_out(rows)[firsts] & ~_is_held_out(rows)[both] & digests.any(axis=1)
        positions, order = np.unique(both[is_leak], return_index=True)
        found.append(Repeats("leak", reason, positions, firsts[is_leak][order]))
        training = np.setdiff1d(training, positions)
    return [repeats for repeats in found if len(repeats.positions)]


def _is_held_out(rows: AllRows) -> Mask:
    return (rows.roles == "test") | (rows.roles == "evaluation")


def _held_out_first(rows: AllRows, positions: Positions) -> Positions:
    rank = np.where(rows.roles[positions] == "evaluation", 0, np.where(rows.roles[positions] == "test", 1, 2))
    return positions[np.argsort(rank, kind="stable")]

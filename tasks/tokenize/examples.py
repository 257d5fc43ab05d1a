"""Training rows as examples in a prompt: which ones are shown, and a row with them before its own turns.

All held-out rows get the same examples, so that what differs between two prompts is the question alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from hashlib import sha256
from itertools import islice, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from configs.errors import DataError
from tasks.rows.row_turns import turns_of
from tasks.rows.values import as_json
from tasks.tokenize.files import read_rows
from tasks.tokenize.rows import Row

if TYPE_CHECKING:
    from tasks.tokenize.turns import Turn

# answers are labels if they are short, few are distinct, and each stands in several rows
_MOST_LABELS = 20
_LABEL_CHARACTERS = 100
_ROWS_PER_LABEL = 5
# rows read beyond those that are needed, since some may be of no use
_NUM_SPARE = 64
_CANDIDATE = np.dtype(
    [
        ("position", np.int64),
        ("question", np.uint64),
        ("key", np.uint64),
        ("answer", np.uint64),
        ("length", np.int64),
        ("num_answers", np.int64),
    ]
)


def choose_examples(
    train: Path,
    k: int,
    held_out: Path,
    seed: int = 0,
    is_usable: Callable[[Row], bool] = lambda row: True,
) -> list[Row]:
    """Return `k` rows of the Parquet file `train` of canonical rows to show as examples.

    A candidate has a prompt and ends with an answer: a pair, a conversation, a preference (its chosen answer) or a kto
    row whose answer is wanted. Its prompt is that of no row in the file `held_out`, and no two examples have the same
    prompt. Rows with one answer of at most the median length come first, since long examples leave no room. Where the
    answers are labels (at most 20 distinct ones of at most 100 characters, each in 5 rows on average), each label is
    shown equally often, the frequent ones first. The rest is decided by SHA-256(seed, content), so the same rows in
    any order, and any number of times, give the same examples in the same order. Memory: 48 bytes a training row and
    a digest of each held-out prompt.

    Raises:
        DataError: fewer than `k` rows can be examples.
    """
    prompted = (row for rows in read_rows(held_out, 0, 1) for row in rows if row.kind != "text")
    asked = {_question(turns_of(row)) for row in prompted}
    found = _candidates(train, asked, seed)
    chosen: list[tuple[int, Row]] = []
    order = _order_of_choice(found)
    start, size = 0, k + _NUM_SPARE
    while start < len(order):
        batch = found[order[start : start + size]]
        # each batch reads the file again
        start, size = start + size, 8 * size
        rows = _rows_at(train, set(batch["position"].tolist()))
        usable = ((int(entry["key"]), rows[int(entry["position"])]) for entry in batch)
        chosen += islice((pair for pair in usable if is_usable(pair[1])), k - len(chosen))
        if len(chosen) == k:
            # in the order of the choice, labels would take turns
            return [row for _, row in sorted(chosen)]
    raise DataError(
        f"evaluate.few_shot={k}: {len(chosen)} training rows can be examples, which have a prompt and an answer, whose "
        f"prompt is not held out, and which fit into tokenize.max_length\nset it to {len(chosen)}"
        + ("" if chosen else " to evaluate without examples")
    )


def with_examples(row: Row, examples: Sequence[Row]) -> Row:
    """Return a row, to be rendered by a chat template, with the turns of examples before its own.

    The row's system turn stays first; those of examples are left out. The answers of examples have weight 0, so that
    the row's own answers alone are trained, or counted in a loss. Id, expected answer, group and tools stay.
    """
    shown = [turn for example in examples for turn in _shown_turns(example)]
    turns = turns_of(row) if row.kind == "messages" else turns_of(row)[:-1]
    num_system = int(turns[0]["role"] == "system")
    return row._replace(messages=as_json([*turns[:num_system], *shown, *turns[num_system:]]))


def _shown_turns(example: Row) -> list[Turn]:
    turns = [turn for turn in turns_of(example) if turn["role"] != "system"]
    return [turn | ({"weight": 0} if turn["role"] == "assistant" else {}) for turn in turns]


def _question(turns: Sequence[Turn]) -> int:
    """Return a digest of all turns before the last one, apart from case and white space."""
    return _digest("\0".join(f"{turn['role']}\0{_folded(str(turn['content']))}" for turn in turns[:-1]))


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _digest(text: str) -> int:
    return int.from_bytes(sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def _candidates(train: Path, asked: set[int], seed: int) -> np.ndarray:
    """Return an entry of `_CANDIDATE` for each row that may be an example, once for rows of the same content."""
    parts = [np.empty(0, _CANDIDATE)]
    position = 0
    for rows in read_rows(train, 0, 1):
        entries = []
        for number, row in enumerate(rows):
            if row.kind == "text" or (row.kind == "kto" and row.label != "true"):
                continue
            turns = turns_of(row)
            question = _question(turns)
            if turns[-1].get("weight", 1) != 0 and question not in asked:
                entries.append((position + number, question, *_measured(row, turns, seed)))
        parts.append(np.array(entries, _CANDIDATE))
        position += len(rows)
    found = np.concatenate(parts)
    return found[np.unique(found["key"], return_index=True)[1]]


def _measured(row: Row, turns: Sequence[Turn], seed: int) -> tuple[int, int, int, int]:
    """Return (key, answer, length, number of answers) of a candidate; the answer is 0 if it is no label."""
    content = "\0".join((row.kind, row.prompt, row.completion, row.messages, row.tools, row.answer))
    is_label = len(row.completion) <= _LABEL_CHARACTERS and not row.tools
    return (
        _digest(f"{seed}\0{content}"),
        _digest(_folded(row.completion)) if is_label else 0,
        # the system turn is not shown
        sum(len(str(turn["content"])) for turn in turns if turn["role"] != "system") + len(row.answer),
        sum(turn["role"] == "assistant" for turn in turns),
    )


def _order_of_choice(found: np.ndarray) -> np.ndarray:
    """Return the indices of candidates in the order in which they are taken; the labels take turns."""
    labels, numbers = np.unique(found["answer"], return_counts=True)
    are_labels = len(labels) <= _MOST_LABELS and _ROWS_PER_LABEL * len(labels) <= len(found) and 0 not in labels
    classes = [np.arange(len(found))]
    if are_labels:
        by_frequency = labels[np.lexsort((labels, -numbers))]
        classes = [np.flatnonzero(found["answer"] == label) for label in by_frequency]
    ranked = [_ranked(found, indices) for indices in classes]
    taken = [index for turn in zip_longest(*ranked) for index in turn if index is not None]
    return _first_of_each_question(found, taken)


def _ranked(found: np.ndarray, indices: np.ndarray) -> list[int]:
    """Return the indices of one class: rows with one answer and at most its median length first."""
    entries = found[indices]
    if not len(entries):
        return []
    lengths = np.where(entries["length"] <= np.median(entries["length"]), 0, entries["length"])
    ranks = np.lexsort((entries["key"], lengths, entries["num_answers"] > 1))
    return [int(index) for index in indices[ranks]]


def _first_of_each_question(found: np.ndarray, order: list[int]) -> np.ndarray:
    _, firsts = np.unique(found["question"][order], return_index=True)
    return np.array(order, np.int64)[np.sort(firsts)]


def _rows_at(path: Path, positions: set[int]) -> dict[int, Row]:
    """Return the rows of a file by their positions."""
    rows: dict[int, Row] = {}
    position = 0
    for batch in read_rows(path, 0, 1):
        rows |= {position + n: row for n, row in enumerate(batch) if position + n in positions}
        position += len(batch)
        if len(rows) == len(positions):
            break
    return rows

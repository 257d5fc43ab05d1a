"""What one part of the rows knows of itself, small enough to send on: counts that add up to those of all rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
from pydantic import BaseModel

from tasks.tokenize.over_length import IGNORED, Record
from tasks.tokenize.tokens import Setup, TokenBatch

COUNTS_FILE = "counts.json"
_NAMED_ROWS = 3


class Found(BaseModel):
    """Rows that a check found: their number, and the ids of the first three."""

    num_rows: int = 0
    first: list[str] = []

    def add(self, row_ids: Sequence[str]) -> None:
        """Count rows that follow those counted before."""
        self.num_rows += len(row_ids)
        self.first = [*self.first, *row_ids[: _NAMED_ROWS - len(self.first)]]

    def plus(self, other: Found) -> Found:
        """Return both, `other` being of rows that follow."""
        return Found(num_rows=self.num_rows + other.num_rows, first=[*self.first, *other.first][:_NAMED_ROWS])


class SplitCounts(BaseModel):
    """Counts of one split. `lengths` is the number of sequences of each length in tokens; `fault` stops the run.

    `trained_tokens` are those that the loss counts: never the first of a sequence, which nothing predicts. `ends` are
    the special tokens that end answers, `endless` the rows with an answer that has none.
    """

    lengths: dict[int, int] = {}
    trained_tokens: int = 0
    dropped: int = 0
    truncated: int = 0
    split: int = 0
    split_pieces: int = 0
    left_out_pieces: int = 0
    control_text: Found = Found()
    without_bos: Found = Found()
    two_bos: Found = Found()
    untrained: Found = Found()
    endless: Found = Found()
    ends: list[int] = []
    fault: str | None = None

    @property
    def num_sequences(self) -> int:
        return sum(self.lengths.values())

    @property
    def num_tokens(self) -> int:
        return sum(length * count for length, count in self.lengths.items())

    def plus(self, other: SplitCounts) -> SplitCounts:
        """Return the counts of both, `other` being of rows that follow."""
        merged = SplitCounts(
            lengths=_sum_of(self.lengths, other.lengths),
            ends=sorted({*self.ends, *other.ends}),
            fault=self.fault or other.fault,
        )
        for name in SplitCounts.model_fields:
            mine, others = getattr(self, name), getattr(other, name)
            if isinstance(mine, Found):
                setattr(merged, name, mine.plus(others))
            elif isinstance(mine, int):
                setattr(merged, name, mine + others)
        return merged


class PartCounts(BaseModel):
    """Counts of part `number` of `of`. `has_messages` holds for the rows of all parts."""

    number: int
    of: int
    has_messages: bool
    splits: dict[str, SplitCounts] = {}


def merge_splits(parts: Iterable[PartCounts], name: str) -> SplitCounts:
    """Return the counts of one split over all parts, in their order."""
    return reduce(SplitCounts.plus, (part.splits[name] for part in parts if name in part.splits), SplitCounts())


def _sum_of(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {length: one.get(length, 0) + other.get(length, 0) for length in sorted({*one, *other})}


def add_batch(counts: SplitCounts, batch: TokenBatch, labels: np.ndarray, offsets: np.ndarray, setup: Setup) -> None:
    """Count a batch. `labels` are those of all its records end to end, [tokens]; `offsets` where each begins, [rows+1].

    The end of an answer is any special token, that of a plain text the tokenizer's eos_token.
    """
    counts.dropped += len(batch.dropped)
    counts.truncated += len(batch.truncated)
    counts.split += len(batch.split)
    counts.split_pieces += batch.num_pieces
    counts.left_out_pieces += batch.num_left_out
    counts.control_text.add(batch.control_text)
    counts.without_bos.add(batch.without_bos)
    records, sizes = batch.records, np.diff(offsets)
    lengths, numbers = np.unique(sizes, return_counts=True)
    counts.lengths = _sum_of(counts.lengths, dict(zip(lengths.tolist(), numbers.tolist(), strict=True)))
    bos = setup.tokenizer.bos_token_id
    counts.two_bos.add([r.row_id for r in records if bos is not None and r.input_ids[:2] == [bos, bos]])
    is_trained = labels != IGNORED
    is_first = np.zeros(len(labels), bool)
    is_first[offsets[:-1][sizes > 0]] = True
    row_of_token = np.repeat(np.arange(len(records)), sizes)
    num_trained = np.bincount(row_of_token[is_trained & ~is_first], minlength=len(records))
    counts.trained_tokens += int(num_trained.sum())
    counts.untrained.add(_ids_where(records, num_trained == 0))
    # the last token of each trained span
    is_last = np.append(is_first[1:] | ~is_trained[1:], True)[: len(labels)]
    is_answer = np.array([record.is_answer for record in records], bool)
    special = np.isin(labels, list(setup.control.special.values()))
    is_end = is_trained & is_last & np.where(is_answer[row_of_token], special, labels == setup.tokenizer.eos_token_id)
    counts.ends = sorted({*counts.ends, *np.unique(labels[is_end]).tolist()})
    num_ends = np.bincount(row_of_token[is_end], minlength=len(records))
    must_end = is_answer & ~np.array([record.may_lack_end for record in records], bool)
    counts.endless.add(_ids_where(records, must_end & (num_ends == 0)))


def _ids_where(records: Sequence[Record], chosen: np.ndarray) -> list[str]:
    return [records[n].row_id for n in np.flatnonzero(chosen).tolist()]

"""What one part of the rows knows of itself, small enough to send on: counts that add up to those of all rows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

import numpy as np
import pyarrow as pa
from pydantic import BaseModel

from configs.objectives import OBJECTIVES
from tasks.tokenize.over_length import IGNORED, Record
from tasks.tokenize.rows import Setup
from tasks.tokenize.tokens import TokenBatch

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

    A pair, a prompt with a chosen and a rejected answer, is one sequence, as long as the prompt with the longer answer;
    `num_tokens` and `trained_tokens` are of both, the prompt counted twice. `trained_tokens` are those that the loss
    counts: never the first of a sequence, which nothing predicts. `ends` are the special tokens that end answers,
    `endless` the rows with an answer that has none. `new_tokens` are those of the new special tokens that rows have,
    `unknown` the rows with tokens for which the model has no embedding.
    """

    lengths: dict[int, int] = {}
    num_tokens: int = 0
    num_pairs: int = 0
    num_unwanted: int = 0
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
    same_answers: Found = Found()
    unknown: Found = Found()
    ends: list[int] = []
    new_tokens: list[int] = []
    fault: str | None = None

    @property
    def num_sequences(self) -> int:
        return sum(self.lengths.values())

    def plus(self, other: SplitCounts) -> SplitCounts:
        """Return the counts of both, `other` being of rows that follow."""
        merged = SplitCounts(
            lengths=_sum_of(self.lengths, other.lengths),
            ends=sorted({*self.ends, *other.ends}),
            new_tokens=sorted({*self.new_tokens, *other.new_tokens}),
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


def add_batch(counts: SplitCounts, batch: TokenBatch, table: pa.RecordBatch, setup: Setup) -> None:
    """Count a batch, whose records are `table`.

    The end of an answer is any special token, that of a plain text the tokenizer's eos_token.
    """
    counts.dropped += len(batch.dropped)
    counts.truncated += len(batch.truncated)
    counts.split += len(batch.split)
    counts.split_pieces += batch.num_pieces
    counts.left_out_pieces += batch.num_left_out
    counts.control_text.add(batch.control_text)
    counts.without_bos.add(batch.without_bos)
    counts.same_answers.add(batch.same_answers)
    records = batch.records
    lengths, numbers = np.unique(np.array([r.num_tokens for r in records], np.int64), return_counts=True)
    counts.lengths = _sum_of(counts.lengths, dict(zip(lengths.tolist(), numbers.tolist(), strict=True)))
    bos = setup.tokenizer.bos_token_id
    counts.two_bos.add([r.row_id for r in records if bos is not None and r.input_ids[:2] == [bos, bos]])
    counts.num_unwanted += sum(not r.is_wanted for r in records)
    _add_labels(counts, batch, table, setup)
    _add_rejected(counts, batch)
    _add_ids(counts, batch, table, setup)


def _add_labels(counts: SplitCounts, batch: TokenBatch, table: pa.RecordBatch, setup: Setup) -> None:
    """Count what is trained of the sequences, but rejected answers, and the ends of their answers."""
    records = batch.records
    labels, offsets = _end_to_end(table, "labels")
    sizes = np.diff(offsets)
    counts.num_tokens += len(labels)
    is_trained = labels != IGNORED
    is_first = np.zeros(len(labels), bool)
    is_first[offsets[:-1][sizes > 0]] = True
    row_of_token = np.repeat(np.arange(len(records)), sizes)
    num_trained = np.bincount(row_of_token[is_trained & ~is_first], minlength=len(records))
    counts.trained_tokens += int(num_trained.sum())
    needs_pairs = OBJECTIVES[setup.objective].needs_pairs
    is_half = np.array([needs_pairs and not record.rejected_ids for record in records], bool)
    counts.untrained.add(_ids_where(records, (num_trained == 0) | is_half))
    # the last token of each trained span
    is_last = np.append(is_first[1:] | ~is_trained[1:], True)[: len(labels)]
    is_answer = np.array([record.is_answer for record in records], bool)
    special_ids = set(setup.control.special.values())
    special = np.isin(labels, list(special_ids))
    is_end = is_trained & is_last & np.where(is_answer[row_of_token], special, labels == setup.tokenizer.eos_token_id)
    counts.ends = sorted({*counts.ends, *np.unique(labels[is_end]).tolist()})
    num_ends = np.bincount(row_of_token[is_end], minlength=len(records))
    has_end = np.array([not r.rejected_ids or r.rejected_ids[-1] in special_ids for r in records], bool)
    must_end = is_answer & ~np.array([record.may_lack_end for record in records], bool)
    counts.endless.add(_ids_where(records, must_end & ((num_ends == 0) | ~has_end)))


def _add_rejected(counts: SplitCounts, batch: TokenBatch) -> None:
    """Count the rejected answers, each of which is a further sequence with the same prompt."""
    pairs = [record for record in batch.records if record.rejected_ids]
    counts.num_pairs += len(pairs)
    counts.num_tokens += sum(record.num_rejected_tokens for record in pairs)
    counts.trained_tokens += sum(len(record.rejected_ids) for record in pairs)


def _add_ids(counts: SplitCounts, batch: TokenBatch, table: pa.RecordBatch, setup: Setup) -> None:
    """Note which new tokens there are, and the rows with tokens that the model does not know."""
    if not setup.new_token_ids and setup.vocabulary_size is None:
        return
    new = np.array(setup.new_token_ids, np.int32)
    unknown = np.zeros(len(batch.records), bool)
    seen: set[int] = set(counts.new_tokens)
    for name in ("input_ids", "rejected_ids"):
        ids, offsets = _end_to_end(table, name)
        is_new = np.isin(ids, new)
        seen |= set(np.unique(ids[is_new]).tolist())
        if setup.vocabulary_size is not None:
            rows = np.repeat(np.arange(len(batch.records)), np.diff(offsets))
            unknown[rows[(ids >= setup.vocabulary_size) & ~is_new]] = True
    counts.new_tokens = sorted(seen)
    counts.unknown.add(_ids_where(batch.records, unknown))


def _end_to_end(table: pa.RecordBatch, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the numbers of all rows of a list column, [tokens] int32, and where each row begins, [rows + 1]."""
    column = table.column(name)
    return column.values.to_numpy(), column.offsets.to_numpy()


def _ids_where(records: Sequence[Record], chosen: np.ndarray) -> list[str]:
    return [records[n].row_id for n in np.flatnonzero(chosen).tolist()]

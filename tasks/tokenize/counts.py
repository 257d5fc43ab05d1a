"""Counts of one part of the rows, small enough to hand to the join, which adds up the counts of all parts."""

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
_NUM_FIRST_IDS = 3


class FoundRows(BaseModel):
    """Rows that a check found: their number, and the ids of the first three."""

    num_rows: int = 0
    first_ids: list[str] = []

    def add(self, row_ids: Sequence[str]) -> None:
        """Count rows that come after those counted before."""
        self.num_rows += len(row_ids)
        self.first_ids = [*self.first_ids, *row_ids[: _NUM_FIRST_IDS - len(self.first_ids)]]

    def plus(self, later: FoundRows) -> FoundRows:
        """Return the sum of both, where the rows of `later` come after these."""
        first_ids = [*self.first_ids, *later.first_ids][:_NUM_FIRST_IDS]
        return FoundRows(num_rows=self.num_rows + later.num_rows, first_ids=first_ids)


class SplitCounts(BaseModel):
    """Counts of one split.

    `lengths` maps a length in tokens to its number of sequences. A pair of a chosen and a rejected answer is one
    sequence there, as long as the prompt with the longer answer. `num_tokens` and `trained_tokens` count both answers,
    each with its prompt. `trained_tokens` are the tokens that the loss counts; it never counts the first of a sequence.
    `dropped`, `truncated` and `split` are rows over `max_length`, by what was done to them. `num_ends` maps a special
    token that ends answers to the number that it ends, `inner_token_ids` are those after which trained answers go on,
    and `without_end` the rows with an answer that none ends. `new_token_ids` are the new special tokens that occur in
    rows, and `unknown_tokens` the rows with a token that has no embedding. Rows in `training_template` were rendered by
    TRL's variant of the template, those in `one_answer_each` with one sequence for each answer, and those in
    `without_reasoning` without some of their reasoning. `error` is the message that stops the run, if any.
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
    control_text: FoundRows = FoundRows()
    without_bos: FoundRows = FoundRows()
    two_bos: FoundRows = FoundRows()
    untrained: FoundRows = FoundRows()
    without_end: FoundRows = FoundRows()
    same_answers: FoundRows = FoundRows()
    unknown_tokens: FoundRows = FoundRows()
    training_template: FoundRows = FoundRows()
    one_answer_each: FoundRows = FoundRows()
    without_reasoning: FoundRows = FoundRows()
    num_ends: dict[int, int] = {}
    inner_token_ids: list[int] = []
    new_token_ids: list[int] = []
    error: str | None = None

    @property
    def num_sequences(self) -> int:
        return sum(self.lengths.values())

    @property
    def end_token_ids(self) -> list[int]:
        """The tokens that end answers, the most frequent first."""
        return sorted(self.num_ends, key=lambda token: (-self.num_ends[token], token))

    @property
    def stop_token_ids(self) -> list[int]:
        """The tokens at which generation stops: those that end answers, and after which none goes on.

        In gpt-oss's format `<|end|>` ends an earlier answer, and also the analysis before an answer.
        """
        return [token for token in self.end_token_ids if token not in self.inner_token_ids] or self.end_token_ids

    def plus(self, later: SplitCounts) -> SplitCounts:
        """Return the sum of both counts, where the rows of `later` come after these."""
        merged = SplitCounts(
            lengths=_add_numbers(self.lengths, later.lengths),
            num_ends=_add_numbers(self.num_ends, later.num_ends),
            inner_token_ids=sorted({*self.inner_token_ids, *later.inner_token_ids}),
            new_token_ids=sorted({*self.new_token_ids, *later.new_token_ids}),
            error=self.error or later.error,
        )
        for name in SplitCounts.model_fields:
            earlier_count, later_count = getattr(self, name), getattr(later, name)
            if isinstance(earlier_count, FoundRows):
                setattr(merged, name, earlier_count.plus(later_count))
            elif isinstance(earlier_count, int):
                setattr(merged, name, earlier_count + later_count)
        return merged


class PartCounts(BaseModel):
    """Counts of one part, the splits by name.

    `has_messages` is true if any row of the run is a conversation, and `has_prompts` if any is more than a plain text.
    """

    part_number: int
    num_parts: int
    has_messages: bool
    has_prompts: bool = False
    splits: dict[str, SplitCounts] = {}


def merge_splits(parts: Iterable[PartCounts], name: str) -> SplitCounts:
    """Return the counts of one split over all parts, in their order."""
    return reduce(SplitCounts.plus, (part.splits[name] for part in parts if name in part.splits), SplitCounts())


def _add_numbers(one: dict[int, int], other: dict[int, int]) -> dict[int, int]:
    return {key: one.get(key, 0) + other.get(key, 0) for key in sorted({*one, *other})}


def add_batch(counts: SplitCounts, batch: TokenBatch, table: pa.RecordBatch, setup: Setup) -> None:
    """Add the counts of a batch to `counts`; `table` holds the batch's records as Arrow columns.

    Any special token can end an answer; a plain text ends with the tokenizer's eos_token.
    """
    counts.dropped += len(batch.dropped)
    counts.truncated += len(batch.truncated)
    counts.split += len(batch.split)
    counts.split_pieces += batch.num_pieces
    counts.left_out_pieces += batch.num_left_out
    counts.control_text.add(batch.control_text)
    counts.without_bos.add(batch.without_bos)
    counts.same_answers.add(batch.same_answers)
    for note, row_ids in batch.noted.items():
        getattr(counts, note).add(row_ids)
    records = batch.records
    lengths, numbers = np.unique(np.array([r.num_tokens for r in records], np.int64), return_counts=True)
    counts.lengths = _add_numbers(counts.lengths, dict(zip(lengths.tolist(), numbers.tolist(), strict=True)))
    bos = setup.tokenizer.bos_token_id
    counts.two_bos.add([r.row_id for r in records if bos is not None and r.input_ids[:2] == [bos, bos]])
    counts.num_unwanted += sum(not r.is_wanted for r in records)
    _add_labels(counts, batch, table, setup)
    _add_rejected(counts, batch)
    _add_ids(counts, batch, table, setup)


def _add_labels(counts: SplitCounts, batch: TokenBatch, table: pa.RecordBatch, setup: Setup) -> None:
    """Count the trained tokens of the sequences, without rejected answers, and the tokens that end their answers."""
    records = batch.records
    labels, offsets = _flatten(table, "labels")
    sizes = np.diff(offsets)
    counts.num_tokens += len(labels)
    is_trained = labels != IGNORED
    is_first = np.zeros(len(labels), bool)
    is_first[offsets[:-1][sizes > 0]] = True
    row_of_token = np.repeat(np.arange(len(records)), sizes)
    num_trained = np.bincount(row_of_token[is_trained & ~is_first], minlength=len(records))
    counts.trained_tokens += int(num_trained.sum())
    needs_pairs = OBJECTIVES[setup.objective].needs_pairs
    lacks_rejected = np.array([needs_pairs and not record.rejected_ids for record in records], bool)
    counts.untrained.add(_row_ids_where(records, (num_trained == 0) | lacks_rejected))
    # true for the last token of each trained span
    is_last = np.append(is_first[1:] | ~is_trained[1:], True)[: len(labels)]
    has_answer = np.array([record.has_answer for record in records], bool)
    special_ids = set(setup.control.special.values())
    is_special = np.isin(labels, list(special_ids))
    is_eos = labels == setup.tokenizer.eos_token_id
    is_end = is_trained & is_last & np.where(has_answer[row_of_token], is_special, is_eos)
    ends, numbers = np.unique(labels[is_end], return_counts=True)
    counts.num_ends = _add_numbers(counts.num_ends, dict(zip(ends.tolist(), numbers.tolist(), strict=True)))
    is_inner = is_trained & ~is_last & is_special & has_answer[row_of_token]
    counts.inner_token_ids = sorted({*counts.inner_token_ids, *np.unique(labels[is_inner]).tolist()})
    num_ends = np.bincount(row_of_token[is_end], minlength=len(records))
    rejected_ends = np.array([not r.rejected_ids or r.rejected_ids[-1] in special_ids for r in records], bool)
    must_end = has_answer & ~np.array([record.may_lack_end for record in records], bool)
    counts.without_end.add(_row_ids_where(records, must_end & ((num_ends == 0) | ~rejected_ends)))


def _add_rejected(counts: SplitCounts, batch: TokenBatch) -> None:
    """Count the pairs, and the tokens of rejected answers, each with its prompt."""
    pairs = [record for record in batch.records if record.rejected_ids]
    counts.num_pairs += len(pairs)
    counts.num_tokens += sum(record.num_rejected_tokens for record in pairs)
    counts.trained_tokens += sum(len(record.rejected_ids) for record in pairs)


def _add_ids(counts: SplitCounts, batch: TokenBatch, table: pa.RecordBatch, setup: Setup) -> None:
    """Note which new tokens occur, and the rows with a token that has no embedding in the model."""
    if not setup.new_token_ids and setup.vocabulary_size is None:
        return
    new = np.array(setup.new_token_ids, np.int32)
    is_unknown = np.zeros(len(batch.records), bool)
    seen: set[int] = set(counts.new_token_ids)
    for name in ("input_ids", "rejected_ids"):
        ids, offsets = _flatten(table, name)
        is_new = np.isin(ids, new)
        seen |= set(np.unique(ids[is_new]).tolist())
        if setup.vocabulary_size is not None:
            rows = np.repeat(np.arange(len(batch.records)), np.diff(offsets))
            is_unknown[rows[(ids >= setup.vocabulary_size) & ~is_new]] = True
    counts.new_token_ids = sorted(seen)
    counts.unknown_tokens.add(_row_ids_where(batch.records, is_unknown))


def _flatten(table: pa.RecordBatch, name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return a list column as (values of all rows, [tokens] int32; offsets at which rows begin, [rows + 1])."""
    column = table.column(name)
    return column.values.to_numpy(), column.offsets.to_numpy()


def _row_ids_where(records: Sequence[Record], mask: np.ndarray) -> list[str]:
    return [records[n].row_id for n in np.flatnonzero(mask).tolist()]

"""Packing: join short sequences into packs of at most `max_length` tokens, so little of a batch is padding.

Best-fit decreasing decides which rows share a pack: the longest row is placed first, and each row goes into the pack
that it fills best (Johnson 1974, "Fast algorithms for bin packing"; for training data Ding et al. 2024, "Fewer
Truncations Improve Language Modeling", https://arxiv.org/abs/2404.10830). The number of packs is at most 11/9 of the
smallest possible number, plus a constant. No row is cut.

TRL's `pack_dataset(strategy="bfd")` follows the same rule, but packs each batch of a `map` separately, by default of
1000 rows. As a single batch, it holds all tokens in memory with 32-bit offsets. It also cuts rows that are too long,
and drops row ids. Here all rows are packed together, and their tokens stay on disk.
"""

from __future__ import annotations

import bisect
import tempfile
from collections import defaultdict, deque
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.tokenize.over_length import IGNORED

_BATCH_ROWS = 1024
_BLOCK_TOKENS = 2**20
_TOKEN_BYTES = 8
_NUMBERS = pa.list_(pa.int32())
PACKED_SCHEMA = pa.schema(
    [
        ("row_ids", pa.list_(pa.string())),
        ("input_ids", _NUMBERS),
        ("labels", _NUMBERS),
        ("position_ids", _NUMBERS),
    ]
)


class PackReport(NamedTuple):
    """`num_sequences` rows before packing, `num_packed` after it; `fill` = tokens / (num_packed x max_length)."""

    num_sequences: int
    num_packed: int
    fill: float


def pack_tokens(source: Path, target: Path, max_length: int) -> PackReport:
    """Pack the rows of `source` into `target`, and return the counts. The same rows always give the same file.

    `source` is a Parquet file with the columns `row_id`, `input_ids` and `labels`. A row of `target` is one pack, with
    `row_ids` and the lists `input_ids`, `labels` and `position_ids`, all three of equal length. Within a pack the rows
    follow one another in the order of `source`. Position ids restart at 0 with each row; by them training tells the
    rows of a pack apart. The first label of each row is -100, or the last token of the row before it would be trained
    to predict it.

    Memory holds the lengths, the row ids, and one block of tokens. A temporary file beside `target` holds all tokens,
    8 bytes for each.

    Raises:
        ValueError: a row has no tokens, more than `max_length` tokens, or not as many labels as tokens.
    """
    with tempfile.TemporaryFile(dir=target.parent, buffering=0) as tokens:
        row_ids, lengths = _write_pairs(source, tokens, max_length)
        pack_of = best_fit_decreasing(lengths, max_length)
        num_packed = int(pack_of.max()) + 1 if len(pack_of) else 0
        # token ids repeat too little for dictionaries; zstd alone is faster, and its files smaller than by default
        with pq.ParquetWriter(target, PACKED_SCHEMA, compression="zstd", use_dictionary=False) as writer:
            for block in _blocks(tokens, row_ids, lengths, pack_of):
                writer.write_batch(block)
    fill = float(lengths.sum()) / (num_packed * max_length) if num_packed else 0.0
    return PackReport(len(lengths), num_packed, fill)


def best_fit_decreasing(lengths: np.ndarray, max_length: int) -> np.ndarray:
    """Return the number of each row's pack, [rows], int64; packs are numbered from 0 in the order of their first rows.

    `lengths`, [rows], are between 1 and `max_length`. Of equally long rows the earlier is placed first. Of packs with
    equal free space, the one that has had this space for longest is filled.

    Rows of one length are placed together: the pack that fits a row best also fits the next row of that length best,
    until it is full. So the number of steps is the number of (length, free space) pairs that occur, at most the number
    of rows. Each step looks up a space in a sorted list, in O(log max_length).
    """
    descending = np.argsort(-lengths, kind="stable")
    starts = np.flatnonzero(np.diff(lengths[descending], prepend=0))
    pack_of = np.empty(len(lengths), dtype=np.int64)
    packs_with: defaultdict[int, deque[np.ndarray]] = defaultdict(deque)
    spaces: list[int] = []
    num_packs = 0

    def keep(packs: np.ndarray, space: int, first: bool = False) -> None:
        if not len(packs) or not space:
            return
        if not packs_with[space]:
            bisect.insort(spaces, space)
        if first:
            packs_with[space].appendleft(packs)
        else:
            packs_with[space].append(packs)

    for rows in np.split(descending, starts[1:]) if len(lengths) else []:
        length = int(lengths[rows[0]])
        while len(rows):
            smallest_fit = bisect.bisect_left(spaces, length)
            is_new = smallest_fit == len(spaces)
            space = max_length if is_new else spaces[smallest_fit]
            rows_per_pack = space // length
            num_wanted = -(-len(rows) // rows_per_pack)
            if is_new:
                packs = np.arange(num_packs, num_packs + num_wanted)
                num_packs += num_wanted
            else:
                open_packs = packs_with[space].popleft()
                if not packs_with[space]:
                    spaces.pop(smallest_fit)
                packs = open_packs[:num_wanted]
                keep(open_packs[num_wanted:], space, first=True)
            num_placed = min(len(rows), rows_per_pack * len(packs))
            pack_of[rows[:num_placed]] = np.repeat(packs, rows_per_pack)[:num_placed]
            # the last pack may have taken fewer rows
            num_in_last = num_placed - rows_per_pack * (len(packs) - 1)
            keep(packs[:-1], space - rows_per_pack * length)
            keep(packs[-1:], space - num_in_last * length)
            rows = rows[num_placed:]
    return _renumber_by_first_row(pack_of)


def _renumber_by_first_row(pack_of: np.ndarray) -> np.ndarray:
    _, first_rows, packs = np.unique(pack_of, return_index=True, return_inverse=True)
    return np.argsort(np.argsort(first_rows))[packs]


def _write_pairs(source: Path, tokens: IO[bytes], max_length: int) -> tuple[pa.LargeStringArray, np.ndarray]:
    """Write the (input id, label) pairs of all rows to `tokens`, as int32, and return row ids and lengths, [rows]."""
    row_ids: list[pa.Array] = [pa.array([], pa.large_string())]
    lengths: list[np.ndarray] = [np.zeros(0, dtype=np.int64)]
    # without `pre_buffer`, which fetches whole row groups ahead: a file may consist of one
    with pq.ParquetFile(source, buffer_size=2**20, pre_buffer=False) as file:
        for batch in file.iter_batches(_BATCH_ROWS, columns=["row_id", "input_ids", "labels"]):
            names, ids, labels = (batch.column(name) for name in ("row_id", "input_ids", "labels"))
            counts = pc.list_value_length(ids).to_numpy(zero_copy_only=False)
            _check_rows(names, counts, pc.list_value_length(labels).to_numpy(zero_copy_only=False), max_length)
            pairs = np.empty((int(counts.sum()), 2), dtype=np.int32)
            for column, values in enumerate((ids, labels)):
                pairs[:, column] = pc.list_flatten(values).to_numpy()
            pairs.tofile(tokens)
            row_ids.append(names.cast(pa.large_string()))
            lengths.append(counts.astype(np.int64))
    return pa.concat_arrays(row_ids), np.concatenate(lengths)


def _check_rows(names: pa.Array, num_tokens: np.ndarray, num_labels: np.ndarray, max_length: int) -> None:
    for row in np.flatnonzero((num_tokens < 1) | (num_tokens > max_length))[:1]:
        raise ValueError(f"{names[row]}: {num_tokens[row]} tokens; a packed row holds 1 to {max_length}")
    for row in np.flatnonzero(num_tokens != num_labels)[:1]:
        raise ValueError(f"{names[row]}: {num_tokens[row]} tokens, {num_labels[row]} labels; every token needs one")


def _blocks(
    tokens: IO[bytes], row_ids: pa.LargeStringArray, lengths: np.ndarray, pack_of: np.ndarray
) -> Iterator[pa.RecordBatch]:
    """Yield the packs, as `PACKED_SCHEMA`, in blocks of about `_BLOCK_TOKENS` tokens; a block becomes a row group."""
    offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]]) if len(lengths) else lengths
    # stable, so the rows of a pack keep the order of the source
    by_pack = np.argsort(pack_of, kind="stable")
    first_of_pack = np.flatnonzero(np.diff(pack_of[by_pack], prepend=-1))
    ends = np.append(first_of_pack, len(by_pack))
    num_tokens_before = np.concatenate([[0], np.cumsum(lengths[by_pack])])[ends]
    start = 0
    while start < len(first_of_pack):
        limit = num_tokens_before[start] + _BLOCK_TOKENS
        stop = max(start + 1, int(np.searchsorted(num_tokens_before, limit, side="right")) - 1)
        rows = by_pack[ends[start] : ends[stop]]
        pairs = _read_rows(tokens, offsets[rows], lengths[rows])
        row_starts = np.cumsum(lengths[rows]) - lengths[rows]
        positions = np.arange(len(pairs), dtype=np.int32) - np.repeat(row_starts.astype(np.int32), lengths[rows])
        labels = pairs[:, 1].copy()
        labels[row_starts] = IGNORED
        bounds = (num_tokens_before[start : stop + 1] - num_tokens_before[start]).astype(np.int32)
        names = pa.ListArray.from_arrays(
            (ends[start : stop + 1] - ends[start]).astype(np.int32), row_ids.take(pa.array(rows)).cast(pa.string())
        )
        numbers = [pa.ListArray.from_arrays(bounds, values) for values in (pairs[:, 0].copy(), labels, positions)]
        yield pa.RecordBatch.from_arrays([names, *numbers], schema=PACKED_SCHEMA)
        start = stop


def _read_rows(tokens: IO[bytes], offsets: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the (input id, label) pairs of rows, [tokens, 2], int32, wherever the rows are in the file.

    The file is read, not memory-mapped: the pages of a mapped file that is read in random order would all count as
    memory of this process.
    """
    pairs = np.empty((int(lengths.sum()), 2), dtype=np.int32)
    view = pairs.data.cast("B")
    position = 0
    for offset, num_bytes in zip((offsets * _TOKEN_BYTES).tolist(), (lengths * _TOKEN_BYTES).tolist(), strict=True):
        tokens.seek(offset)
        num_read = tokens.readinto(view[position : position + num_bytes])  # type: ignore[attr-defined]
        assert num_read == num_bytes, "the temporary file of tokens was cut short"
        position += num_bytes
    return pairs

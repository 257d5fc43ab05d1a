"""Packing: every row is in one pack, uncut; no pack is too long, packs are few, and rows of a pack stay apart."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.tokenize import packing
from tasks.tokenize.packing import PackReport, best_fit_decreasing, pack_tokens


def packs(lengths: list[int], max_length: int) -> list[list[int]]:
    """Return the lengths in each pack, in the order of packs and rows."""
    pack_of = best_fit_decreasing(np.array(lengths, dtype=np.int64), max_length)
    return [[n for n, at in zip(lengths, pack_of, strict=True) if at == pack] for pack in range(max(pack_of) + 1)]


@pytest.mark.parametrize(
    ("max_length", "lengths", "expected"),
    [
        (10, [10], [[10]]),
        # exact fits
        (10, [4, 6, 10], [[4, 6], [10]]),
        # one over
        (10, [5, 6], [[5], [6]]),
        # the tightest pack wins, not the first: 1 fills the pack of 7 and 7, and 9 keeps a free space of 6
        (15, [9, 7, 7, 1], [[9], [7, 7, 1]]),
        # rows of one length fill a new pack, and the rest of them the next one
        (10, [3, 3, 3, 3, 3], [[3, 3, 3], [3, 3]]),
        # longest first: in their own order, 2 and 3 would share a pack
        (10, [2, 3, 7, 8], [[2, 8], [3, 7]]),
        # one pack more than the best possible, which is 4 + 3 + 3 twice; the bound 11/9 x 2 + 1 allows 3
        (10, [4, 4, 3, 3, 3, 3], [[4, 4], [3, 3, 3], [3]]),
        # made as [9, 9], [7, 7, 6], [6] (44 tokens need 3 packs); numbered in the order of their first rows
        (20, [6, 7, 9, 6, 9, 7], [[6, 7, 7], [9, 9], [6]]),
    ],
)
def test_rows_go_where_they_fit_best_longest_first(
    max_length: int, lengths: list[int], expected: list[list[int]]
) -> None:
    assert packs(lengths, max_length) == expected


def test_equal_rows_are_taken_in_their_own_order() -> None:
    # rows 1 and 3, of 6, open packs; row 0, of 4, joins row 1, whose pack is the first of two equally good ones
    assert best_fit_decreasing(np.array([4, 6, 4, 6]), 10).tolist() == [0, 0, 1, 1]


def textbook_packs(lengths: list[int], max_length: int) -> list[list[int]]:
    """Return the packs of best-fit decreasing as in a textbook: one row at a time, and all packs compared."""
    opened: list[list[int]] = []
    for length in sorted(lengths, reverse=True):
        fitting = [pack for pack in opened if sum(pack) + length <= max_length]
        # of equally full packs, the one that has been so full for longest
        best = max(fitting, key=sum, default=[])
        opened = [pack for pack in opened if pack is not best]
        opened.append([*best, length])
    return opened


LENGTHS = st.integers(1, 40).flatmap(
    lambda max_length: st.tuples(st.just(max_length), st.lists(st.integers(1, max_length), min_size=1, max_size=60))
)


@given(LENGTHS)
def test_packs_are_those_of_the_textbook(case: tuple[int, list[int]]) -> None:
    max_length, lengths = case
    found = sorted(sorted(pack) for pack in packs(lengths, max_length))
    assert found == sorted(sorted(pack) for pack in textbook_packs(lengths, max_length))


@given(st.data(), st.integers(1, 12), st.integers(4, 60))
def test_at_most_two_ninths_more_packs_than_the_fewest_possible(data: st.DataObject, fewest: int, size: int) -> None:
    # rows cut from `fewest` full packs, so no fewer packs can hold them
    lengths: list[int] = []
    for _ in range(fewest):
        cuts = data.draw(st.lists(st.integers(1, size - 1), max_size=6, unique=True))
        lengths += np.diff([0, *sorted(cuts), size]).tolist()
    shuffled = data.draw(st.permutations(lengths))
    assert fewest <= len(packs(shuffled, size)) <= 11 / 9 * fewest + 1


def write_rows(path: Path, lengths: list[int], row_group_size: int = 1024) -> Path:
    """Write rows of distinct tokens, in which odd tokens are their own labels and even ones are masked."""
    starts = np.cumsum([0, *lengths])
    ids = [list(range(a, b)) for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True)]
    labels = [[-100 if token % 2 == 0 else token for token in row] for row in ids]
    names = [f"rows.jsonl:{n}" for n in range(1, len(lengths) + 1)]
    table = {"row_id": pa.array(names, pa.string()), "prompt": pa.array(["?"] * len(names), pa.string())}
    table |= {name: pa.array(values, pa.list_(pa.int64())) for name, values in (("input_ids", ids), ("labels", labels))}
    pq.write_table(pa.table(table), path, row_group_size=row_group_size)
    return path


def test_a_small_file_by_hand(tmp_path: Path) -> None:
    # tokens 0 1 2 | 3 4 5 6 7 | 8 9
    source = write_rows(tmp_path / "in.parquet", [3, 5, 2])
    assert pack_tokens(source, tmp_path / "out.parquet", 6) == PackReport(num_sequences=3, num_packed=2, fill=10 / 12)
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.to_pylist() == [
        {
            "row_ids": ["rows.jsonl:1", "rows.jsonl:3"],
            "input_ids": [0, 1, 2, 8, 9],
            # 1 and 9 are trained; 3, in the other pack, is not, because it is the first token of its row
            "labels": [-100, 1, -100, -100, 9],
            "position_ids": [0, 1, 2, 0, 1],
        },
        {
            "row_ids": ["rows.jsonl:2"],
            "input_ids": [3, 4, 5, 6, 7],
            "labels": [-100, -100, 5, -100, 7],
            "position_ids": [0, 1, 2, 3, 4],
        },
    ]
    numbers = pa.list_(pa.int32())
    assert [field.type for field in table.schema] == [pa.list_(pa.string()), numbers, numbers, numbers]


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 7))
def test_every_row_is_in_one_pack_whole_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[int, list[int]], row_group_size: int
) -> None:
    max_length, lengths = case
    directory = tmp_path_factory.mktemp("packs")
    source = write_rows(directory / "in.parquet", lengths, row_group_size)
    with pytest.MonkeyPatch.context() as patch:
        # so small that a few rows make many batches and row groups
        patch.setattr(packing, "_BATCH_ROWS", 3)
        patch.setattr(packing, "_BLOCK_TOKENS", 50)
        report = pack_tokens(source, directory / "out.parquet", max_length)
        again = pack_tokens(source, directory / "again.parquet", max_length)
    rows = {row["row_id"]: row for row in pq.read_table(source).to_pylist()}
    packed = pq.read_table(directory / "out.parquet").to_pylist()
    seen = []
    for pack in packed:
        assert len(pack["input_ids"]) == len(pack["labels"]) == len(pack["position_ids"]) <= max_length
        bounds = [*(at for at, position in enumerate(pack["position_ids"]) if position == 0), len(pack["input_ids"])]
        for name, start, end in zip(pack["row_ids"], bounds[:-1], bounds[1:], strict=True):
            assert pack["input_ids"][start:end] == rows[name]["input_ids"]
            assert pack["labels"][start:end] == [-100, *rows[name]["labels"][1:]]
            assert pack["position_ids"][start:end] == list(range(end - start))
            seen.append(name)
    assert sorted(seen) == sorted(rows)
    assert report == (len(lengths), len(packed), sum(lengths) / (len(packed) * max_length)) == again
    assert (directory / "out.parquet").read_bytes() == (directory / "again.parquet").read_bytes()
    assert math.ceil(sum(lengths) / max_length) <= len(packed) <= len(lengths)


def test_rows_are_packed_over_the_whole_file(tmp_path: Path) -> None:
    # in batches of a thousand rows, a long row would never share a pack with a short one
    source = write_rows(tmp_path / "in.parquet", [7] * 5000 + [3] * 5000)
    assert pack_tokens(source, tmp_path / "out.parquet", 10) == (10_000, 5000, 1.0)


def test_no_rows_make_no_packs(tmp_path: Path) -> None:
    assert pack_tokens(write_rows(tmp_path / "in.parquet", []), tmp_path / "out.parquet", 8) == (0, 0, 0.0)
    assert pq.read_table(tmp_path / "out.parquet").column_names == ["row_ids", "input_ids", "labels", "position_ids"]


@pytest.mark.parametrize(("lengths", "num_tokens"), [([8, 9], 9), ([3, 0, 4], 0)])
def test_a_row_that_fits_no_pack_is_named(lengths: list[int], num_tokens: int, tmp_path: Path) -> None:
    source = write_rows(tmp_path / "in.parquet", lengths)
    with pytest.raises(ValueError, match=f"rows.jsonl:2: {num_tokens} tokens; a packed row holds 1 to 8"):
        pack_tokens(source, tmp_path / "out.parquet", 8)
    assert [path.name for path in tmp_path.iterdir()] == ["in.parquet"]


def test_a_row_with_more_tokens_than_labels_is_refused(tmp_path: Path) -> None:
    table = {"row_id": ["a"], "input_ids": [[1, 2]], "labels": [[1]]}
    pq.write_table(pa.table(table), tmp_path / "in.parquet")
    with pytest.raises(ValueError, match="a: 2 tokens, 1 labels"):
        pack_tokens(tmp_path / "in.parquet", tmp_path / "out.parquet", 8)


def test_no_temporary_file_is_left_beside_the_packs(tmp_path: Path) -> None:
    pack_tokens(write_rows(tmp_path / "in.parquet", [3, 4]), tmp_path / "out.parquet", 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.parquet", "out.parquet"]

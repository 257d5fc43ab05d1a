"""The order of rows: every row once an epoch, whatever the sizes; and rows that fill leave no trace."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.train.order import EpochOrder, epoch_order, num_fill_rows, row_lengths, without_fill


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 4000), min_size=1, max_size=700),
    batch_size=st.integers(1, 70),
    seed=st.integers(0, 2**31),
    epoch=st.integers(0, 5),
    is_grouped=st.booleans(),
)
def test_an_epoch_has_every_row_once_and_is_a_pure_function(
    lengths: list[int], batch_size: int, seed: int, epoch: int, is_grouped: bool
) -> None:
    of_rows = np.array(lengths) if is_grouped else None
    before = None if of_rows is None else of_rows.copy()
    order = epoch_order(len(lengths), of_rows, batch_size, seed, epoch)
    assert sorted(order.tolist()) == list(range(len(lengths)))
    assert np.array_equal(order, epoch_order(len(lengths), of_rows, batch_size, seed, epoch))
    if of_rows is not None:
        assert np.array_equal(of_rows, before)
        full = of_rows[order[: len(lengths) // batch_size * batch_size]]
        # what needs the most memory comes first
        assert full.max(initial=0) == full[:batch_size].max(initial=0)


@pytest.mark.parametrize("is_grouped", [True, False])
def test_the_order_depends_on_seed_and_epoch(is_grouped: bool) -> None:
    lengths = np.arange(100) if is_grouped else None
    orders = [tuple(epoch_order(100, lengths, 8, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4


def test_batches_have_rows_of_like_length_and_come_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(10, 1000, 4096)

    def batches(of_rows: np.ndarray | None) -> np.ndarray:
        return lengths[epoch_order(4096, of_rows, 16, 0, 0)].reshape(-1, 16)

    def padding(of_batches: np.ndarray) -> float:
        return 1 - of_batches.sum() / (of_batches.max(axis=1).sum() * 16)

    assert padding(batches(lengths)) < 0.05 < 0.4 < padding(batches(None))
    # sorted batches would be a curriculum: neighbours are no more alike than any two
    means = batches(lengths)[1:].mean(axis=1)
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2


def test_fewer_rows_than_a_batch_are_all_there() -> None:
    assert sorted(epoch_order(3, np.array([3, 1, 2]), 8, 0, 0)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("num_rows", "rows_per_pass", "world_size", "expected"),
    [(11, 4, 2, 1), (12, 4, 2, 0), (9, 4, 2, 3), (1, 8, 4, 7), (11, 4, 1, 0)],
)
def test_rows_that_fill_make_passes_of_all_processes_whole(
    num_rows: int, rows_per_pass: int, world_size: int, expected: int
) -> None:
    assert num_fill_rows(num_rows, rows_per_pass, world_size) == expected


def test_rows_that_fill_come_after_all_others_in_every_epoch() -> None:
    order = EpochOrder(5, 3, None, 4, seed=0)
    assert len(order) == 8
    first = list(order)
    order.set_epoch(1)
    second = list(order)
    assert first[5:] == second[5:] == [5, 6, 7]
    assert sorted(first[:5]) == sorted(second[:5]) == list(range(5))
    assert first != second


def collated(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {"input_ids": torch.tensor([row["input_ids"] for row in rows]), "labels": torch.ones(len(rows), 2)}


def test_rows_that_fill_are_left_out_of_a_batch_and_not_counted() -> None:
    rows = [{"input_ids": [1, 2]}, {"input_ids": [3, 4], "is_fill": None}, {"input_ids": [5, 6], "is_fill": True}]
    batch = without_fill(collated)(rows)
    assert batch["input_ids"].tolist() == [[1, 2], [3, 4]]
    assert batch["labels"].tolist() == [[1, 1], [1, 1]]
    assert batch["num_rows"].tolist() == [2]


def test_a_pass_of_rows_that_fill_keeps_one_without_labels() -> None:
    batch = without_fill(collated)([{"input_ids": [1, 2], "is_fill": True}] * 2)
    assert batch["input_ids"].tolist() == [[1, 2]]
    assert batch["labels"].tolist() == [[-100, -100]]
    assert batch["num_rows"].tolist() == [0]


def test_the_length_of_a_pair_is_of_both_answers() -> None:
    import pyarrow as pa

    columns = [pa.chunked_array([[[1, 2, 3], [4]], [[5]]]), pa.chunked_array([[[], [1]], [[1, 1]]])]
    assert row_lengths(columns).tolist() == [3, 2, 3]

"""Carries the numbers of rows through a collator, so that an error can name the rows of a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

RowIds = Callable[[Sequence[int]], list[str]]


def without_row_numbers(inputs: Any) -> tuple[Any, Any]:
    """Return a batch without its row numbers, and the numbers: a tensor, a list, or None."""
    if isinstance(inputs, list):
        numbers = [row["row_number"] for row in inputs if "row_number" in row]
        return [{name: row[name] for name in row if name != "row_number"} for row in inputs], numbers
    numbers = inputs.pop("row_numbers", None)
    return inputs, numbers


def as_list(numbers: Any) -> list[int]:
    """Return the row numbers of a batch as a list."""
    return numbers.tolist() if torch.is_tensor(numbers) else [int(number) for number in numbers or []]


def with_row_numbers(
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
    """Return a collator that takes `row_number` off each example, and adds `row_numbers`, [rows] int64, to the batch.

    A batch in which an example has no number gets none. Rows that fill up a batch have a negative number, and no error
    names them.
    """

    def collate_numbered(rows: list[dict[str, Any]]) -> dict[str, Any]:
        numbers = [row["row_number"] for row in rows if row.get("row_number") is not None]
        batch = collate([{name: row[name] for name in row if name != "row_number"} for row in rows])
        if rows and len(numbers) == len(rows):
            batch["row_numbers"] = torch.tensor(numbers, dtype=torch.int64)
        return batch

    return collate_numbered


def row_ids_of(tokens_file: Path) -> RowIds:
    """Return a function that turns row numbers of a tokens file into ids; it reads the file when it is called.

    The id of a packed row is the ids of all its examples, joined by `+`.
    """

    def row_ids(numbers: Sequence[int]) -> list[str]:
        names = pq.read_schema(tokens_file).names
        column = next((name for name in ("row_id", "row_ids") if name in names), None)
        if column is None:
            return [f"row {number + 1} of {tokens_file.name}" for number in numbers]
        ids = pq.read_table(tokens_file, columns=[column]).column(column)
        found = [ids[number].as_py() for number in numbers]
        return ["+".join(row_id) if isinstance(row_id, list) else str(row_id) for row_id in found]

    return row_ids

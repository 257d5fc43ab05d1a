"""The table of rows: one model's answer to each row of each set, with every measure of it, as a Parquet file.

Scores, comparisons and the joined table of a run all come from these files, so that each number has its rows. A column
of a measure holds its value for each row, null where the row does not count. Where a score is not the mean of values
(loss is by token, macro-F1 of the whole set), the column `<measure>#sums` holds what is added up over rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from configs.wire import HELD_OUT, Prediction
from tasks.measures.measured import RowValues, score, sums_of_values

FACTS = pa.schema(
    [
        ("dataset", pa.string()),
        ("row_id", pa.string()),
        ("group", pa.string()),
        ("prompt", pa.string()),
        ("expected", pa.string()),
        ("answer", pa.string()),
        ("reasoning", pa.string()),
        ("prompt_tokens", pa.int64()),
        ("answer_tokens", pa.int64()),
        ("ended", pa.bool_()),
    ]
)
"""Columns of every table. `answer` and what follows are null for a row that was not answered; `group` is empty for a
row that stands alone."""
SUMS = "#sums"
"""End of the name of a column with what is added up over rows."""
_REDUCTION = b"reduction"


def table_of_rows(facts: Mapping[str, Sequence[object]], measures: Mapping[str, RowValues]) -> pa.Table:
    """Return the table of one set: `facts` has a list for each column of `FACTS`, `measures` the same rows' values."""
    return with_measures(
        pa.table({field.name: pa.array(facts[field.name], field.type) for field in FACTS}, schema=FACTS), measures
    )


def with_measures(table: pa.Table, measures: Mapping[str, RowValues]) -> pa.Table:
    """Return `table` with further measures of its rows."""
    for key, measure in measures.items():
        counted = np.isfinite(measure.values)
        field = pa.field(key, pa.float64(), metadata={_REDUCTION: measure.reduction.encode()})
        table = table.append_column(field, pa.array(measure.values, pa.float64(), mask=~counted))
        if not _is_plain_mean(measure):
            sums = pa.array([list(row) for row in measure.sums], pa.list_(pa.float64()))
            table = table.append_column(key + SUMS, sums)
    return table


def join_tables(tables: Sequence[pa.Table]) -> pa.Table:
    """Return the rows of all tables in their order; a measure that a table lacks is null there."""
    return pa.concat_tables(tables, promote_options="default")


def write_table(table: pa.Table, path: Path) -> None:
    """Write a table of rows; the reductions of its measures are kept as metadata of their columns."""
    pq.write_table(table, path, compression="zstd")


def read_table(path: Path) -> pa.Table:
    """Return a table that `write_table` wrote."""
    return pq.read_table(path)


def rows_of(table: pa.Table, dataset: str = HELD_OUT) -> pa.Table:
    """Return the rows of one set, in their order."""
    return table.filter(pc.equal(table["dataset"], dataset))


def datasets(table: pa.Table) -> list[str]:
    """Return the names of the sets, the held-out rows first."""
    names = list(dict.fromkeys(table["dataset"].to_pylist()))
    return sorted(names, key=lambda name: name != HELD_OUT)


def measures_in(table: pa.Table) -> list[str]:
    """Return the keys of the measures that a table has values of."""
    known = set(FACTS.names)
    return [
        name
        for name in table.column_names
        if name not in known and not name.endswith(SUMS) and table[name].null_count < table.num_rows
    ]


def values_of(table: pa.Table, key: str) -> RowValues:
    """Return a measure of a table's rows.

    Raises:
        KeyError: the table does not have it.
    """
    column = table[key]
    values = np.asarray(column.to_numpy(zero_copy_only=False), dtype=np.float64)
    metadata = table.schema.field(key).metadata or {}
    reduction = metadata.get(_REDUCTION, b"mean").decode()
    if key + SUMS not in table.column_names:
        return RowValues(values, sums_of_values(values), reduction)
    rows = table[key + SUMS].to_pylist()
    width = max((len(row) for row in rows if row is not None), default=2)
    # a set whose sums are those of a plain mean is stored without them
    plain = sums_of_values(values) if width == 2 else np.zeros((len(rows), width))
    sums = [own if row is None else row for row, own in zip(rows, plain, strict=True)]
    return RowValues(values, np.asarray(sums, dtype=np.float64).reshape(len(rows), width), reduction)


def score_of(table: pa.Table, key: str) -> tuple[float | None, int]:
    """Return (the score of a measure, the rows that count) over a table's rows; (None, 0) where no row counts."""
    measure = values_of(table, key)
    number = int(np.isfinite(measure.values).sum())
    return (score(measure.sums.sum(axis=0), measure.reduction) if number else None), number


def predictions_of(table: pa.Table, keys: Sequence[str]) -> list[Prediction]:
    """Return the answers, each right or wrong by `judging_measure`; None where no measure says so."""
    names = ("row_id", "prompt", "expected", "answer", "reasoning")
    rows = zip(*(table[name].to_pylist() for name in names), strict=True)
    key = judging_measure(table, keys)
    judged = None if key is None else values_of(table, key).values
    return [
        Prediction(
            **dict(zip(names, (*row[:4], row[4] or ""), strict=True)),
            is_right=None if judged is None or not np.isfinite(judged[place]) else bool(judged[place]),
        )
        for place, row in enumerate(rows)
        if row[3] is not None
    ]


def judging_measure(table: pa.Table, keys: Sequence[str]) -> str | None:
    """Return the first of `keys` whose values are all 0 or 1, else exact match; None where the table has neither."""
    known = (key for key in (*keys, "exact_match") if key in measures_in(table))
    return next((key for key in known if _is_binary(values_of(table, key).values)), None)


def groups_of(table: pa.Table) -> np.ndarray | None:
    """Return [rows] str, equal for rows of one group and empty for a row alone; None where every row stands alone."""
    groups = np.asarray([group or "" for group in table["group"].to_pylist()], dtype=object)
    named = [group for group in groups if group]
    return groups if len(set(named)) < len(named) else None


def aligned(first: pa.Table, second: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Return the rows that both tables of a set have, by their ids, in the order of the first."""
    places = {row_id: place for place, row_id in enumerate(second["row_id"].to_pylist())}
    ids = first["row_id"].to_pylist()
    both = [(place, places[row_id]) for place, row_id in enumerate(ids) if row_id in places]
    # without a type, an empty list has one that no table takes
    places_of = [pa.array([pair[side] for pair in both], pa.int64()) for side in (0, 1)]
    return first.take(places_of[0]), second.take(places_of[1])


def _is_binary(values: np.ndarray) -> bool:
    return bool(np.isin(values[np.isfinite(values)], (0.0, 1.0)).all())


def _is_plain_mean(measure: RowValues) -> bool:
    return measure.reduction == "mean" and bool(np.array_equal(measure.sums, sums_of_values(measure.values)))

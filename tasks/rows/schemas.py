"""The pandera schema of each row format. Every check judges one row, so that each failure names its row.

`preference_implicit` is TRL's preference format without a prompt column, as conversations: all turns but the last are
the prompt. Two texts are refused, because the prompt would be a guess: two texts that begin alike may still belong to
different questions.
"""

from __future__ import annotations

import json
from operator import itemgetter
from typing import Any

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from tasks.rows.canonical import COLUMN_READERS, faults_of


def _schema(row_format: str) -> pa.DataFrameSchema:
    def is_valid(records: pd.DataFrame) -> pd.Series:
        # object: pandas must not coerce values, and a missing value is a fault like any other
        values = [not faults_of(row_format, record) for record in _records(records)]
        return pd.Series(values, index=records.index, dtype=bool)

    columns = {column: pa.Column(object, nullable=True) for column in COLUMN_READERS[row_format]}
    return pa.DataFrameSchema(columns, checks=[pa.Check(is_valid, name="format", ignore_na=False)])


SCHEMAS: dict[str, pa.DataFrameSchema] = {name: _schema(name) for name in COLUMN_READERS}


def find_faults(row_format: str, records: pd.DataFrame) -> pd.DataFrame:
    """Return one line for each failure case: `index` (of `records`), `column`, `reason`, `value` (as text).

    `records` has columns of dtype object and a unique index.
    """
    try:
        SCHEMAS[row_format].validate(records, lazy=True)
        return pd.DataFrame({"index": [], "column": [], "reason": [], "value": []})
    except SchemaErrors as errors:
        cases = errors.failure_cases
    # a failure without a row would be an error in these schemas, not in the data
    assert not cases["index"].isna().any(), cases["check"].unique()
    indices = sorted({int(index) for index in cases["index"]})
    faults = [
        {"index": index, "column": column, "reason": reason, "value": _as_text(record.get(column))}
        for index, record in zip(indices, _records(records.loc[indices]), strict=True)
        for column, reason in faults_of(row_format, record)
    ]
    return pd.DataFrame(sorted(faults, key=itemgetter("index", "column")))


def _records(records: pd.DataFrame) -> list[dict[str, Any]]:
    columns = [str(column) for column in records.columns]
    return [dict(zip(columns, row, strict=True)) for row in records.itertuples(index=False, name=None)]


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

"""The joined table of a run, `rows.parquet`: every row once, with the answer and the measures of each model.

A column of a model is called `<column>:<model>`. What is added up over rows is kept beside the values, so that every
score and difference of the run can be computed from this file alone.
"""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from tasks.evidence.table import FACTS, SUMS, datasets, measures_in, rows_of

_SHARED = ("dataset", "row_id", "group", "prompt", "expected")
_OWN = ("answer", "answer_tokens", "ended")
_OF = ":"


def join_models(tables: Mapping[str, pa.Table]) -> pa.Table:
    """Return one table of the rows of all sets, with the columns of each model.

    The rows of a set are those of the first model that has it. A row that a model lacks is null there. The reductions
    of measures stay metadata of their columns.
    """
    names = dict.fromkeys(name for table in tables.values() for name in datasets(table))
    return pa.concat_tables([_joined(tables, name) for name in names], promote_options="default")


def models_in(joined: pa.Table) -> list[str]:
    """Return the names of the models of a joined table, in their order."""
    names = (name.partition(_OF)[2] for name in joined.column_names)
    return list(dict.fromkeys(name for name in names if name))


def table_of(joined: pa.Table, model: str) -> pa.Table:
    """Return the table of one model's rows, as `tasks.evidence.table` reads it.

    Columns that a joined table does not have, such as the reasoning, are null. A row that the model lacks has no value
    of any measure.
    """
    fields, columns = [], []
    for field in FACTS:
        name = field.name if field.name in _SHARED else f"{field.name}{_OF}{model}"
        known = name in joined.column_names
        columns.append(joined[name] if known else pa.nulls(joined.num_rows, field.type))
        fields.append(field)
    facts = {f"{name}{_OF}{model}" for name in FACTS.names}
    for field in joined.schema:
        name, _, owner = field.name.partition(_OF)
        if owner == model and field.name not in facts:
            columns.append(joined[field.name])
            fields.append(field.with_name(name))
    return pa.table(columns, schema=pa.schema(fields))


def _joined(tables: Mapping[str, pa.Table], dataset: str) -> pa.Table:
    own_tables = {model: rows_of(table, dataset) for model, table in tables.items()}
    first = next(own for own in own_tables.values() if own.num_rows)
    ids = first["row_id"].to_pylist()
    whole = first.select(list(_SHARED))
    for model, own in own_tables.items():
        places = {row_id: place for place, row_id in enumerate(own["row_id"].to_pylist())}
        indices = pa.array([places.get(row_id) for row_id in ids], pa.int64())
        keys = measures_in(own)
        sums = [key + SUMS for key in keys if key + SUMS in own.column_names]
        for name in (*_OWN, *keys, *sums):
            field = own.schema.field(name).with_name(f"{name}{_OF}{model}")
            whole = whole.append_column(field, own[name].take(indices))
    return whole.replace_schema_metadata(None)

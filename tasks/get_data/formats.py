"""The row formats of the field: how each is recognised, and how a valid row becomes one canonical row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from configs.errors import DataError
from configs.schema import RowFormat, SourceConfig
from tasks.get_data.sources import RawRow, RawSource

# required columns of each format, in the order in which detection tries them
FORMAT_COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "text": ("text",),
}
OPTIONAL_COLUMNS = {"instruction": ("input",)}
NESTED_INSTANCES = "instances"
_ROWS_LOOKED_AT = 100


def detect_format(source: SourceConfig, raw: RawSource, where: str) -> RowFormat:
    """Return the format whose columns the first rows have, after the config's column names are applied.

    Raises:
        DataError: no format fits, or a mapped column is not there; names the columns found.
    """
    found: dict[str, None] = {}
    for row in raw.rows[:_ROWS_LOOKED_AT]:
        found.update(dict.fromkeys(row.record))
    if not found:
        return source.format if source.format != "auto" else "text"
    mapping = column_mapping(source)
    for canonical, column in mapping.items():
        if column not in found:
            raise DataError(
                f"{where}.columns.{canonical}={column}: {raw.label} has no such column; it has {', '.join(found)}"
            )
    names = set(mapping) | (set(found) - set(mapping.values()))
    if NESTED_INSTANCES in names and "instruction" in names:
        names.add("output")
    candidates = FORMAT_COLUMNS if source.format == "auto" else {source.format: FORMAT_COLUMNS[source.format]}
    for name, columns in candidates.items():
        if set(columns) <= names:
            return name  # type: ignore[return-value]
    wanted = " or ".join("+".join(columns) for columns in candidates.values())
    raise DataError(
        f"{where}: {raw.label} has the columns {', '.join(found)}, where {wanted} is wanted\n"
        + _advice(list(found), source.format)
    )


def _advice(found: list[str], wanted: str) -> str:
    if {"chosen", "rejected"} <= set(found):
        return "pairs of a chosen and a rejected answer are for preference optimization, which is not supported yet"
    if wanted in ("messages", "text") or len(found) == 1:
        return f"name yours, for example: columns: {{{'messages' if wanted == 'messages' else 'text'}: {found[0]}}}"
    return f"name yours, for example: columns: {{prompt: {found[0]}, completion: {found[-1]}}}"


def column_mapping(source: SourceConfig) -> dict[str, str]:
    """Return {canonical name: the data's name} for the columns that the config maps."""
    return {name: column for name, column in source.columns.model_dump().items() if column is not None}


def canonical_records(source: SourceConfig, row_format: RowFormat, raw: RawSource) -> Iterator[tuple[str, RawRow]]:
    """Yield (row id, record with canonical column names), nested instances as one record each.

    A row id is `file:row`, or `file:row.k` for the k-th instance of a row, from 1.
    """
    mapping = column_mapping(source)
    columns = FORMAT_COLUMNS[row_format] + OPTIONAL_COLUMNS.get(row_format, ())
    for row in raw.rows:
        renamed = {column: row.record.get(mapping.get(column, column)) for column in columns}
        instances = row.record.get(NESTED_INSTANCES)
        if row_format == "instruction" and "output" not in mapping and isinstance(instances, list) and instances:
            for part, instance in enumerate(instances, 1):
                values = instance if isinstance(instance, dict) else {}
                record = {**renamed, "input": values.get("input"), "output": values.get("output")}
                yield f"{row.file}:{row.row}.{part}", RawRow(row.file, row.row, record)
        else:
            yield f"{row.file}:{row.row}", RawRow(row.file, row.row, renamed)


def canonical_row(row_format: RowFormat, record: dict[str, Any]) -> dict[str, str]:
    """Return {kind, prompt, completion, messages} of a valid record.

    `kind` is `pair`, `messages` or `text`. For `messages`, that column holds the JSON of [{role, content}, ...] and
    prompt and completion are the last user and assistant turns, for display. For `text`, completion is the text.
    """
    if row_format == "messages":
        messages = [{"role": turn["role"], "content": turn["content"]} for turn in record["messages"]]
        prompt = next((turn["content"] for turn in reversed(messages[:-1]) if turn["role"] == "user"), "")
        packed = json.dumps(messages, ensure_ascii=False)
        return {"kind": "messages", "prompt": prompt, "completion": messages[-1]["content"], "messages": packed}
    if row_format == "text":
        return {"kind": "text", "prompt": "", "completion": record["text"], "messages": ""}
    if row_format == "instruction":
        context = record.get("input") or ""
        prompt = f"{record['instruction']}\n\n{context}" if context.strip() else record["instruction"]
        return {"kind": "pair", "prompt": prompt, "completion": record["output"], "messages": ""}
    return {"kind": "pair", "prompt": record["prompt"], "completion": record["completion"], "messages": ""}

"""Canonical rows and faults of single records, for tests of the row formats."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from configs.schema import SourceConfig
from tasks.rows.canonical import canonical_row
from tasks.rows.formats import canonical_entries, column_mapping, detect_format
from tasks.rows.schemas import find_faults
from tasks.rows.sources import RawRow


def read_record(record: dict[str, Any], row_format: str = "auto") -> dict[str, Any]:
    """Return the columns of the canonical row that are in use; those that hold JSON are parsed."""
    row = canonical_row(*_entry(record, row_format))
    parsed = ("messages", "tools", "answer", "rejected_answer")
    return {name: json.loads(value) if name in parsed else value for name, value in row.items() if value}


def faults(record: dict[str, Any], row_format: str = "auto") -> list[tuple[str, str]]:
    """Return (column, reason) of each fault of a record."""
    detected, renamed = _entry(record, row_format)
    found = find_faults(detected, pd.DataFrame([renamed], dtype=object))
    return list(zip(found["column"], found["reason"], strict=True))


def _entry(record: dict[str, Any], row_format: str) -> tuple[Any, dict[str, Any]]:
    source = SourceConfig(path="rows.jsonl", format=row_format)
    detected = detect_format(source, "rows.jsonl", [record], "data.sources[0]")
    [entry] = canonical_entries(column_mapping(source), detected, RawRow("rows.jsonl", 1, record))
    return detected, entry.record

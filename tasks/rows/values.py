"""Values of a row: texts, JSON texts, and the fault that makes a row invalid."""

from __future__ import annotations

import json
from typing import Any

import configs.foreign_json
from tasks.rows.rows import fault_of_characters

_TYPE_NAMES: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


class Fault(Exception):
    """Why a row cannot be used, for the row's own column or for `column`; the message shows no content of the row."""

    def __init__(self, reason: str, column: str | None = None) -> None:
        super().__init__(reason)
        self.column = column


def type_name(value: Any) -> str:
    """Return what a value is, in words: `text`, `a list`, ..."""
    return _TYPE_NAMES.get(type(value), "something else")


def is_missing(value: Any) -> bool:
    """Return whether a table has no value here: None, NaN or pandas' NA."""
    return value is None or type(value).__name__ == "NAType" or (isinstance(value, float) and value != value)


def read_text(value: Any) -> str:
    """Return a text that is not blank.

    Raises:
        Fault: it is something else.
    """
    if is_missing(value):
        raise Fault("is missing")
    if not isinstance(value, str):
        raise Fault(f"is {type_name(value)}, not text; quote it or map another column")
    if not value.strip():
        raise Fault("is empty")
    return value


def read_optional_text(value: Any) -> str:
    """Return a text, or the only one of a list, empty where there is none. Raises `Fault` for another value."""
    if isinstance(value, list) and len(value) <= 1:
        value = value[0] if value else None
    if is_missing(value) or (isinstance(value, str) and not value.strip()):
        return ""
    return read_text(value)


def parse_json(text: str) -> Any:
    """Return the value of a JSON text that is a value of a row.

    Raises:
        ValueError: it is not JSON, an object has a key twice, it is nested too deeply, or it holds characters that are
            not text, which its escapes may stand for.
    """
    value = configs.foreign_json.parse_json(text, configs.foreign_json.INDEX_BYTES, is_strict=True)
    if "\\u" in text and (fault := fault_of_characters(value)):
        raise ValueError(fault)
    return value


def is_json(value: Any) -> bool:
    """Return whether JSON has a form for `value`: a Parquet file may also hold dates, bytes and NaN."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return False
    return True


def as_json(value: Any) -> str:
    """Return the JSON text of a canonical column."""
    return json.dumps(value, ensure_ascii=False)


def without_padding(record: dict[str, Any]) -> dict[str, Any]:
    """Return a row of a typed table without the nulls in its structs.

    All structs of a column have the same keys: a row that lacks one gets a null, which its writer never wrote.
    """
    return {
        column: _without_nulls(value) if isinstance(value, dict | list) else value for column, value in record.items()
    }


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value

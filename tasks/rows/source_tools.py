"""Tool definitions that a config gives once for a source (`data.sources[].tools`): which rows take them."""

from __future__ import annotations

from typing import Any

from configs.errors import DataError
from configs.schema import RowFormat
from tasks.rows.values import is_missing, parse_json

SOURCE_TOOLS = "tools (of the source)"
"""The name under which the table of columns counts the rows that take their source's tools."""
_EMPTY = ("", "[]", "null")
# the format whose rows have their tools beside the turns in `input`, not in a column
_IN_INPUT = "preference_openai"


def with_source_tools(row_format: RowFormat, record: dict[str, Any], tools: str) -> dict[str, Any]:
    """Return a record under canonical column names with the `tools` of its source, if it has none of its own.

    A row has none if they are missing, null, an empty text or an empty list.
    """
    if not takes_source_tools(row_format, record, tools):
        return record
    if row_format == _IN_INPUT:
        return {**record, "input": {**_object(record["input"]), "tools": tools}}
    return {**record, "tools": tools}


def takes_source_tools(row_format: RowFormat, record: dict[str, Any], tools: str) -> bool:
    """Return whether a record of a format that reads tools gets the `tools` of its source."""
    if not tools.strip():
        return False
    if row_format != _IN_INPUT:
        return _is_empty(record.get("tools"))
    # an input of another kind is a fault of the row, which is found where it is read
    given = _object(record.get("input"))
    return bool(given) and _is_empty(given.get("tools"))


def check_format_reads_tools(where: str, row_format: RowFormat, columns: tuple[str, ...], tools: str) -> None:
    """Check that `columns`, which a format reads, include tools, if the source at `where` in the config has any.

    Raises:
        DataError: they do not.
    """
    if tools.strip() and "tools" not in columns and row_format != _IN_INPUT:
        raise DataError(f"{where}.tools: format {row_format} reads no tools; remove it, or set {where}.format")


def _is_empty(tools: Any) -> bool:
    return is_missing(tools) or tools == [] or (isinstance(tools, str) and tools.strip() in _EMPTY)


def _object(value: Any) -> dict[str, Any]:
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            return {}
    return value if isinstance(value, dict) else {}

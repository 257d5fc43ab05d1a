"""The pandera schema of each row format. Every check is row by row, so that each failure names its row."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

_KINDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
_ROLES = {"system", "user", "assistant"}


def _fault_of_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"is {_KINDS.get(type(value), 'something else')}, not text; quote it or map another column"
    return None if value.strip() else "is empty"


def _fault_of_messages(value: Any) -> str | None:
    """Return what is wrong with a conversation, the first fault only; None for a valid one."""
    if not isinstance(value, list):
        return f"is {_KINDS.get(type(value), 'something else')}, not a list of messages"
    if not value:
        return "is empty"
    previous = ""
    for number, turn in enumerate(value, 1):
        role = turn.get("role") if isinstance(turn, dict) else None
        if role not in _ROLES:
            return f"turn {number} has no role of {', '.join(sorted(_ROLES))}"
        fault = _fault_of_text(turn.get("content"))
        if fault:
            return f"turn {number} content {fault}"
        if role == "system" and number > 1:
            return f"turn {number} is a system turn; only the first may be"
        if role == previous:
            return f"turns {number - 1} and {number} are both from the {role}"
        if role == "assistant" and previous != "user":
            return f"turn {number} is from the assistant, with no user turn before it"
        previous = role
    return None if previous == "assistant" else "does not end with an assistant turn"


_FAULTS = {"messages": _fault_of_messages}


def _column(name: str, optional: bool = False) -> pa.Column:
    fault = _FAULTS.get(name, _fault_of_text)
    if optional:

        def valid(value: Any) -> bool:
            return isinstance(value, str)

    else:

        def valid(value: Any) -> bool:
            return fault(value) is None

    return pa.Column(object, pa.Check(valid, element_wise=True, name="valid"), nullable=optional, coerce=False)


SCHEMAS: dict[str, pa.DataFrameSchema] = {
    "prompt_completion": pa.DataFrameSchema({"prompt": _column("prompt"), "completion": _column("completion")}),
    "messages": pa.DataFrameSchema({"messages": _column("messages")}),
    "instruction": pa.DataFrameSchema(
        {"instruction": _column("instruction"), "input": _column("input", optional=True), "output": _column("output")}
    ),
    "text": pa.DataFrameSchema({"text": _column("text")}),
}


def find_faults(row_format: str, records: pd.DataFrame) -> pd.DataFrame:
    """Return one line for each failure case: `index` (of `records`), `column`, `reason`, `value` (as text)."""
    try:
        SCHEMAS[row_format].validate(records, lazy=True)
        return pd.DataFrame({"index": [], "column": [], "reason": [], "value": []})
    except SchemaErrors as errors:
        cases = errors.failure_cases
    unplaced = cases[cases["index"].isna()]
    # a failure without a row would be a fault of these schemas, not of the data
    assert unplaced.empty, unplaced.to_string()
    faults = []
    for index, column in sorted({(int(i), str(c)) for i, c in zip(cases["index"], cases["column"], strict=True)}):
        value = records.at[index, column]
        faults.append({"index": index, "column": column, "reason": _reason(column, value), "value": _as_text(value)})
    return pd.DataFrame(faults)


def _reason(column: str, value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "is missing"
    return _FAULTS.get(column, _fault_of_text)(value) or "is not text"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

"""The pandera schema of each row format. Every check is row by row, so that each failure names its row."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from tasks.get_data.formats import SHAREGPT_ROLES

_KINDS: dict[type, str] = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}
_ROLES = {"system", "user", "assistant", "tool"}
_ARTICLES = {"assistant": "an assistant", "user": "a user"}


def _fault_of_text(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"is {_KINDS.get(type(value), 'something else')}, not text; quote it or map another column"
    return None if value.strip() else "is empty"


def _fault_of_messages(value: Any) -> str | None:
    """Return what is wrong with a conversation that ends with an answer, the first fault only; None for a valid one."""
    return _fault_of_turns(value, "assistant")


def _fault_of_turns(value: Any, last: str) -> str | None:
    if not isinstance(value, list):
        return f"is {_KINDS.get(type(value), 'something else')}, not a list of messages"
    if not value:
        return "is empty"
    turns = []
    for number, turn in enumerate(value, 1):
        role, fault = _role_of(turn)
        if fault:
            return f"turn {number} {fault}"
        turns.append((role, turn))
    previous = ""
    for number, (role, _) in enumerate(turns, 1):
        fault = _fault_of_order(number, role, previous)
        if fault:
            return fault
        previous = role
    return None if previous == last else f"does not end with {_ARTICLES[last]} turn"


def _role_of(turn: Any) -> tuple[str, str | None]:
    """Return (role in OpenAI's words, what is wrong with the turn or None)."""
    if not isinstance(turn, dict):
        return "", "is not an object with a role"
    if "from" in turn:
        name, content = turn.get("from"), turn.get("value")
        role = SHAREGPT_ROLES.get(name, "") if isinstance(name, str) else ""
        if not role:
            return "", f"has no `from` of {', '.join(sorted(SHAREGPT_ROLES))}"
        fault = _fault_of_text(content)
        if name == "function_call" and fault is None:
            return role, _fault_of_call(str(content))
        return role, f"value {fault}" if fault else None
    role = str(turn.get("role"))
    if role not in _ROLES:
        return "", f"has no role of {', '.join(sorted(_ROLES))}"
    if role == "assistant" and turn.get("tool_calls") and not turn.get("content"):
        return role, _fault_of_tool_calls(turn["tool_calls"])
    fault = _fault_of_text(turn.get("content"))
    return role, f"content {fault}" if fault else None


def _fault_of_call(text: str) -> str | None:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return "is a function call that is not JSON"
    return None if isinstance(call, dict) and isinstance(call.get("name"), str) else "is a function call without a name"


def _fault_of_tool_calls(calls: Any) -> str | None:
    named = isinstance(calls, list) and all(
        isinstance(call, dict) and isinstance((call.get("function") or {}).get("name"), str) for call in calls
    )
    return None if named else "has tool calls without function names"


def _fault_of_order(number: int, role: str, previous: str) -> str | None:
    if role == "system" and number > 1:
        return f"turn {number} is a system turn; only the first may be"
    if role == previous and role != "tool":
        return f"turns {number - 1} and {number} are both from the {role}"
    if role == "assistant" and previous not in ("user", "tool"):
        return f"turn {number} is from the assistant, with no user turn before it"
    if role == "tool" and previous not in ("assistant", "tool"):
        return f"turn {number} is from a tool that no assistant turn before it called"
    if role == "user" and previous == "tool":
        return f"turn {number} is from the user, where the assistant should answer the tool"
    return None


def _fault_of_prompt(value: Any) -> str | None:
    return _fault_of_turns(value, "user") if isinstance(value, list) else _fault_of_text(value)


def _fault_of_answer(value: Any) -> str | None:
    """Return what is wrong with an answer: a text, a turn of the assistant, or a list that ends with one."""
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, dict):
        return _fault_of_text(value)
    role, fault = _role_of(value)
    return fault or (None if role == "assistant" else "is not a turn of the assistant")


def _fault_of_label(value: Any) -> str | None:
    if isinstance(value, bool) or value in (0, 1, "true", "false", "True", "False"):
        return None
    return "is neither true nor false"


_Fault = Callable[[Any], str | None]
_FAULTS: dict[str, dict[str, _Fault]] = {
    "prompt_completion": {"prompt": _fault_of_text, "completion": _fault_of_text},
    "messages": {"messages": _fault_of_messages},
    "sharegpt": {"conversations": _fault_of_messages},
    "instruction": {"instruction": _fault_of_text, "output": _fault_of_text},
    "text": {"text": _fault_of_text},
    "preference": {"prompt": _fault_of_prompt, "chosen": _fault_of_answer, "rejected": _fault_of_answer},
    "preference_sharegpt": {
        "conversations": lambda value: _fault_of_turns(value, "user"),
        "chosen": _fault_of_answer,
        "rejected": _fault_of_answer,
    },
    "kto": {"prompt": _fault_of_prompt, "completion": _fault_of_answer, "label": _fault_of_label},
}
_OPTIONAL = {"instruction": ("input",), "sharegpt": ("system",)}


def _column(fault: _Fault) -> pa.Column:
    # object: pandas must not coerce, and a missing value is a fault like any other
    return pa.Column(object, pa.Check(lambda value: fault(value) is None, element_wise=True, name="format"))


def _optional_column() -> pa.Column:
    check = pa.Check(lambda value: isinstance(value, str), element_wise=True, name="format")
    return pa.Column(object, check, nullable=True)


SCHEMAS: dict[str, pa.DataFrameSchema] = {
    name: pa.DataFrameSchema(
        {column: _column(fault) for column, fault in faults.items()}
        | {column: _optional_column() for column in _OPTIONAL.get(name, ())}
    )
    for name, faults in _FAULTS.items()
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
        faults.append(
            {"index": index, "column": column, "reason": _reason(row_format, column, value), "value": _as_text(value)}
        )
    return pd.DataFrame(faults)


def _reason(row_format: str, column: str, value: Any) -> str:
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "is missing"
    return _FAULTS[row_format].get(column, _fault_of_text)(value) or "is not text"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

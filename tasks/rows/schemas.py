"""The pandera schema of each row format. Every check judges one row, so that each failure names its row.

`preference_implicit` is TRL's preference format without a prompt column, as conversations: all turns but the last are
the prompt. Two texts are refused, because the prompt would be a guess: two texts that begin alike may still belong to
different questions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from operator import itemgetter
from typing import Any

import pandas as pd
import pandera.pandas as pa
from pandera.errors import SchemaErrors

from tasks.rows.formats import OPTIONAL_COLUMNS, SHAREGPT_ROLES, join_text_parts

_TYPE_NAMES: dict[type, str] = {
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
    if value is None:
        return "is missing"
    if not isinstance(value, str):
        return f"is {_TYPE_NAMES.get(type(value), 'something else')}, not text; quote it or map another column"
    return None if value.strip() else "is empty"


def _fault_of_messages(value: Any) -> str | None:
    """Return the first fault of a conversation that must end with an answer; None for a valid one."""
    return _fault_of_turns(value, "assistant")


def _fault_of_turns(value: Any, last: str) -> str | None:
    if not isinstance(value, list):
        return f"is {_TYPE_NAMES.get(type(value), 'something else')}, not a list of messages"
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
    if fault := _fault_of_call_ids(value):
        return fault
    return None if previous == last else f"does not end with {_ARTICLES[last]} turn"


def _role_of(turn: Any) -> tuple[str, str | None]:
    """Return (OpenAI's name of the turn's role, fault of the turn or None)."""
    if not isinstance(turn, dict):
        return "", "is not an object with a role"
    if "from" in turn:
        name, content = turn.get("from"), turn.get("value")
        role = SHAREGPT_ROLES.get(name, "") if isinstance(name, str) else ""
        if not role:
            return "", f"has a `from` that is none of {', '.join(sorted(SHAREGPT_ROLES))}"
        fault = _fault_of_text(content)
        if name == "function_call" and fault is None:
            return role, _fault_of_call(str(content))
        return role, f"value {fault}" if fault else None
    role = str(turn.get("role"))
    if role not in _ROLES:
        return "", f"has none of the roles {', '.join(sorted(_ROLES))}"
    if turn.get("weight") not in (None, 0, 1):
        return role, "has a weight that is neither 0 nor 1"
    if turn.get("function_call"):
        return role, "has a function_call, OpenAI's old form; write it as tool_calls"
    if role == "assistant" and turn.get("tool_calls"):
        fault = _fault_of_tool_calls(turn["tool_calls"])
        if fault or not turn.get("content"):
            return role, fault
    content = join_text_parts(turn.get("content"))
    if isinstance(content, list):
        return role, "content has parts that are not text, such as images; only text can be trained on"
    fault = _fault_of_text(content)
    return role, f"content {fault}" if fault else None


def _fault_of_call(text: str) -> str | None:
    try:
        call = json.loads(text)
    except (ValueError, RecursionError):
        return "is a function call that is not JSON"
    return None if isinstance(call, dict) and isinstance(call.get("name"), str) else "is a function call without a name"


def _fault_of_tool_calls(calls: Any) -> str | None:
    calls = calls if isinstance(calls, list) else [None]
    functions = [call.get("function") if isinstance(call, dict) else None for call in calls]
    for function in functions:
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            return "has tool calls without function names"
        arguments = function.get("arguments", {})
        if not isinstance(arguments, dict) and not _is_object(arguments):
            return "has a tool call whose arguments are not a JSON object"
    return None


def _is_object(text: Any) -> bool:
    try:
        return isinstance(text, str) and (not text.strip() or isinstance(json.loads(text), dict))
    except (ValueError, RecursionError):
        return False


def _fault_of_call_ids(turns: list[dict[str, Any]]) -> str | None:
    """Return a fault for the first tool turn whose id no earlier call has, if earlier calls have ids."""
    call_ids: set[Any] = set()
    for number, turn in enumerate(turns, 1):
        call_ids |= {call.get("id") for call in turn.get("tool_calls") or [] if isinstance(call, dict)}
        answered = turn.get("tool_call_id")
        if answered is not None and call_ids - {None} and answered not in call_ids:
            return f"turn {number} has a tool_call_id that no call before it has"
    return None


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
    """Return the fault of an answer, which is a text, an assistant turn, or a list of turns that ends with one."""
    if isinstance(value, list) and value:
        value = value[-1]
    if not isinstance(value, dict):
        return _fault_of_text(value)
    role, fault = _role_of(value)
    if fault is None and role != "assistant":
        return "is not a turn of the assistant"
    return fault or (None if _has_text(value) else "is a tool call, but the answer must be text")


def _has_text(turn: dict[str, Any]) -> bool:
    """Return whether a valid turn has text; the columns of a preference have no place for tool calls."""
    return turn.get("from") != "function_call" and bool(turn.get("value") if "from" in turn else turn.get("content"))


def _fault_of_conversation(value: Any) -> str | None:
    """Return the fault of a conversation whose last turn is one of two answers to compare."""
    if isinstance(value, str):
        return "is text, which does not show where the prompt ends; write lists of messages, or map a prompt column"
    fault = _fault_of_messages(value)
    return fault or (None if _has_text(value[-1]) else "ends with a tool call, but the answer must be text")


def _fault_of_comparison(chosen: Any, rejected: Any) -> str | None:
    """Return a fault if two valid conversations differ before their last turns."""
    if _fault_of_conversation(chosen) or _fault_of_conversation(rejected):
        return None
    is_equal = [_turn_content(turn) for turn in chosen[:-1]] == [_turn_content(turn) for turn in rejected[:-1]]
    return None if is_equal else "does not share its earlier turns with chosen"


def _turn_content(turn: dict[str, Any]) -> tuple[Any, ...]:
    """Return role, text and tool calls of a valid turn, in OpenAI's or ShareGPT's form; other keys do not matter."""
    if "from" in turn:
        return _role_of(turn)[0], turn["value"], turn["from"] == "function_call", None
    return turn["role"], turn.get("content") or "", False, turn.get("tool_calls") or None


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
    "preference_implicit": {"chosen": _fault_of_conversation, "rejected": _fault_of_conversation},
    "kto": {"prompt": _fault_of_prompt, "completion": _fault_of_answer, "label": _fault_of_label},
}
# checks of all columns of a row together; a failure is reported for the last column
_ROW_CHECK = "row"
_ROW_FAULTS: dict[str, Callable[..., str | None]] = {"preference_implicit": _fault_of_comparison}


def _column(fault: _Fault) -> pa.Column:
    # object: pandas must not coerce values, and a missing value is a fault like any other
    return pa.Column(object, pa.Check(lambda value: fault(value) is None, element_wise=True, name="format"))


def _optional_column() -> pa.Column:
    check = pa.Check(lambda value: isinstance(value, str), element_wise=True, name="format")
    return pa.Column(object, check, nullable=True)


def _row_check(row_format: str) -> pa.Check:
    columns, fault = list(_FAULTS[row_format]), _ROW_FAULTS[row_format]

    def check(records: pd.DataFrame) -> pd.Series:
        values = zip(*(records[column] for column in columns), strict=True)
        return pd.Series([fault(*row) is None for row in values], index=records.index, dtype=bool)

    return pa.Check(check, name=_ROW_CHECK)


def _schema(row_format: str) -> pa.DataFrameSchema:
    columns = {column: _column(fault) for column, fault in _FAULTS[row_format].items()}
    optional = {column: _optional_column() for column in OPTIONAL_COLUMNS.get(row_format, ())}
    return pa.DataFrameSchema(columns | optional, checks=[_row_check(row_format)] if row_format in _ROW_FAULTS else [])


SCHEMAS: dict[str, pa.DataFrameSchema] = {name: _schema(name) for name in _FAULTS}


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
    columns = cases["column"].where(cases["check"] != _ROW_CHECK, list(_FAULTS[row_format])[-1])
    failed: dict[str, list[int]] = {}
    for index, column in sorted({(int(i), str(c)) for i, c in zip(cases["index"], columns, strict=True)}):
        failed.setdefault(column, []).append(index)
    faults = [
        {
            "index": row["index"],
            "column": column,
            "reason": _reason(row_format, column, row),
            "value": _as_text(row[column]),
        }
        for column, indices in failed.items()
        for row in records.loc[indices].reset_index(names="index").to_dict("records")
    ]
    return pd.DataFrame(sorted(faults, key=itemgetter("index", "column")))


def _reason(row_format: str, column: str, row: dict[Any, Any]) -> str:
    value = row[column]
    if value is None or value is pd.NA or (isinstance(value, float) and value != value):
        return "is missing"
    fault = _FAULTS[row_format].get(column, _fault_of_text)(value)
    if fault is None and row_format in _ROW_FAULTS:
        fault = _ROW_FAULTS[row_format](*(row[name] for name in _FAULTS[row_format]))
    return fault or "is not text"


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)

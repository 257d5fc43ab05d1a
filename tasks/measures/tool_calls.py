"""The measure tool_calls: the calls in an answer against the expected ones, by name and arguments."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

from configs.foreign_json import is_nested_deeper
from configs.schema.measures import MeasureConfig
from tasks.measures.call_formats import calls_in
from tasks.measures.measured import AnsweredRow, RowValues
from tasks.measures.rows import Failed, NotCounted, rows_scored


def tool_calls(config: MeasureConfig, rows: Sequence[AnsweredRow]) -> RowValues:
    """Return 1 where the answer has the expected tool calls, all of them and no other, else 0.

    Compared are names and arguments by value: the order of keys and of parallel calls, white space, and 1 against 1.0
    make no difference; texts, numbers, true and null do, and an argument that only one side gives. The form may differ
    (`calls_in`). A row whose expected answer has no call does not count; an answer without one counts as 0.
    """

    def value(row: AnsweredRow) -> float:
        expected = _calls(row.expected)
        if not expected:
            raise NotCounted("the expected answer has no tool call")
        answered = _calls(row.answer)
        if not answered:
            raise Failed("the answer has no tool call that can be read")
        return float(answered == expected)

    return rows_scored(rows, value)


def _calls(text: str) -> Counter[Hashable]:
    """Return how often each call occurs; none where an argument is nested too deeply."""
    calls = calls_in(text)
    if any(is_nested_deeper(arguments) for _, arguments in calls):
        return Counter()
    return Counter((name, _by_value(arguments)) for name, arguments in calls)


def _by_value(value: Any) -> Hashable:
    """Return a value that equals another's where both are the same JSON value: in Python, True is 1."""
    if isinstance(value, dict):
        return "object", frozenset((key, _by_value(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return "list", tuple(_by_value(item) for item in value)
    if isinstance(value, bool):
        return "truth", value
    return ("number", value) if isinstance(value, int | float) else ("text", value)

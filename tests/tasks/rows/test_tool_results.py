"""Results of tools: each belongs to one call before it, and stands in the order of the calls."""

from __future__ import annotations

from typing import Any

import pytest
from support.row_reading import faults, read_record

USER = {"role": "user", "content": "Weather in Paris and Rome?"}
ANSWER = {"role": "assistant", "content": "12 and 20."}


def calls(*ids: str, names: tuple[str, ...] = ()) -> dict[str, Any]:
    functions = [{"name": name, "arguments": {}} for name in names or ["weather"] * len(ids)]
    entries = [
        {"type": "function", "function": function, **({"id": call_id} if call_id else {})}
        for call_id, function in zip(ids, functions, strict=True)
    ]
    return {"role": "assistant", "content": "", "tool_calls": entries}


def result(content: str, **keys: str) -> dict[str, Any]:
    return {"role": "tool", "content": content, **keys}


def contents(*turns: dict[str, Any]) -> list[str]:
    """Return the contents of the tools' turns of a conversation, as a canonical row has them."""
    row = read_record({"messages": [USER, *turns, ANSWER]})
    return [turn["content"] for turn in row["messages"] if turn["role"] == "tool"]


def fault(*turns: dict[str, Any]) -> str:
    [(column, reason)] = faults({"messages": [USER, *turns, ANSWER]})
    assert column == "messages"
    return reason


def test_results_are_brought_into_the_order_of_their_calls() -> None:
    paris, rome = result("12", tool_call_id="p"), result("20", tool_call_id="r")
    assert contents(calls("p", "r"), rome, paris) == ["12", "20"]
    assert contents(calls("p", "r"), paris, rome) == ["12", "20"]
    # without ids, the names say it if they differ
    named = calls("", "", names=("weather", "time"))
    assert contents(named, result("noon", name="time"), result("12", name="weather")) == ["12", "noon"]
    # each group of results on its own: an id may be used again later
    assert contents(calls("p", "r"), rome, paris, calls("r", "p"), paris, rome) == ["12", "20", "20", "12"]
    # without ids and names the order is the data's
    assert contents(calls("", ""), result("20"), result("12")) == ["20", "12"]


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (
            [calls("p", "r"), result("12", tool_call_id="p")],
            "turn 2 has 2 tool calls, and 1 of them without a result",
        ),
        (
            [calls("p", "r", "s"), result("12", tool_call_id="p"), result("13", tool_call_id="p")],
            "turn 2 has 3 tool calls, and 2 of them without a result",
        ),
        ([calls("p"), result("12", tool_call_id="q")], "turn 3 has a tool_call_id that no call before it has"),
    ],
)
def test_a_result_that_is_missing_or_foreign_is_named(turns: list[dict[str, Any]], reason: str) -> None:
    assert fault(*turns) == reason


@pytest.mark.parametrize("content", ["", None, []])
def test_an_empty_result_is_a_result(content: Any) -> None:
    assert contents(calls("p"), {"role": "tool", "content": content, "tool_call_id": "p"}) == [""]
    assert contents(calls("p"), {"from": "observation", "value": ""}) == [""]
    assert fault(calls("p"), {"role": "tool"}) == "turn 3 content is missing"


def test_one_result_without_an_id_may_answer_several_calls() -> None:
    assert contents(calls("p", "r"), result("12, 20")) == ["12, 20"]


def test_an_empty_system_turn_is_none() -> None:
    turns = [{"role": "system", "content": " "}, {"role": "user", "content": "Q"}, ANSWER]
    assert read_record({"messages": turns})["messages"] == turns[1:]
    assert faults({"messages": turns[:1]}) == [("messages", "does not end with an assistant turn")]
    assert faults({"messages": [{"role": "user", "content": ""}, ANSWER]}) == [("messages", "turn 1 content is empty")]

"""Preferences without a prompt column: `chosen` and `rejected` are conversations that share their earlier turns."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from tasks.rows.schemas import find_faults


def turns(*contents: str, last: str = "assistant") -> list[dict[str, Any]]:
    """Return turns of alternating roles, the last one from `last`."""
    roles = ["assistant", "user"] if last == "assistant" else ["user", "assistant"]
    return [
        {"role": roles[(len(contents) - 1 - number) % 2], "content": content} for number, content in enumerate(contents)
    ]


def faults(*rows: tuple[object, object], row_format: str = "preference_implicit") -> list[tuple[int, str, str]]:
    """Return (row, column, reason) of each failure case."""
    columns = ["chosen", "rejected"]
    table = pd.DataFrame([dict(zip(columns, row, strict=True)) for row in rows], columns=columns, dtype=object)
    found = find_faults(row_format, table)
    return list(zip(found["index"], found["column"], found["reason"], strict=True))


def test_conversations_with_equal_earlier_turns_are_valid() -> None:
    system = {"role": "system", "content": "Be brief."}
    assert faults((turns("q", "good"), turns("q", "bad"))) == []
    assert faults((turns("q", "a", "q2", "good"), turns("q", "a", "q2", "bad"))) == []
    assert faults(([system, *turns("q", "good")], [system, *turns("q", "bad")])) == []


def test_both_answers_may_be_the_same() -> None:
    # the content check `same_answers` finds these, and has a policy of its own
    assert faults((turns("q", "a"), turns("q", "a"))) == []


@pytest.mark.parametrize(
    "rejected",
    [
        turns("another question", "bad"),
        turns("q", "a", "q2", "bad"),
        [{"role": "system", "content": "Be brief."}, *turns("q", "bad")],
        turns("q ", "bad"),
    ],
    ids=["content", "length", "system", "space"],
)
def test_different_earlier_turns_are_a_fault_of_rejected(rejected: list[dict[str, Any]]) -> None:
    good = (turns("q", "good"), turns("q", "bad"))
    assert faults(good, (turns("q", "good"), rejected), good) == [
        (1, "rejected", "does not share its earlier turns with chosen")
    ]


def test_sharegpt_and_openai_turns_are_compared_by_content() -> None:
    sharegpt = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "bad"}]
    assert faults((turns("q", "good"), sharegpt)) == []
    # other keys, and an empty list of tool calls, do not matter
    with_other_keys = [
        {"role": "user", "content": "q", "tool_calls": [], "id": 7},
        {"role": "assistant", "content": "bad"},
    ]
    assert faults((turns("q", "good"), with_other_keys)) == []


def test_earlier_tool_calls_must_be_the_same() -> None:
    def conversation(city: str, answer: str) -> list[dict[str, Any]]:
        call = {"type": "function", "function": {"name": "weather", "arguments": {"city": city}}}
        return [
            {"role": "user", "content": "weather?"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "rain"},
            {"role": "assistant", "content": answer},
        ]

    assert faults((conversation("Oslo", "It rains."), conversation("Oslo", "No."))) == []
    assert faults((conversation("Oslo", "It rains."), conversation("Rome", "No."))) == [
        (0, "rejected", "does not share its earlier turns with chosen")
    ]


@pytest.mark.parametrize(
    ("chosen", "reason"),
    [
        (
            turns("q", "a", "q2", last="user"),
            "does not end with an assistant turn; data.tolerate.drop_trailing_user_turn leaves such a turn out",
        ),
        (turns("a"), "turn 1 is from the assistant, with no user turn before it"),
        ([], "is empty"),
        (None, "is missing"),
        (7, "is a number, not a list of messages"),
        (turns("q", " "), "turn 2 content is empty"),
    ],
    ids=["ends", "no_question", "empty", "missing", "number", "blank"],
)
def test_each_conversation_is_checked_turn_by_turn(chosen: object, reason: str) -> None:
    assert faults((chosen, turns("q", "bad"))) == [(0, "chosen", reason)]
    assert faults((turns("q", "good"), chosen)) == [(0, "rejected", reason)]


def test_both_columns_of_a_row_can_fail() -> None:
    assert faults(([], turns("q", "a")), ([], [])) == [
        (0, "chosen", "is empty"),
        (1, "chosen", "is empty"),
        (1, "rejected", "is empty"),
    ]


def test_texts_are_refused_with_advice() -> None:
    found = faults(("\n\nHuman: q\n\nAssistant: good", "\n\nHuman: q\n\nAssistant: bad"))
    assert [(row, column) for row, column, _ in found] == [(0, "chosen"), (0, "rejected")]
    assert all(
        reason == "is text, which does not show where the prompt ends; write lists of messages, or map a prompt column"
        for _, _, reason in found
    )


def test_failures_keep_the_index_and_the_value_of_their_row() -> None:
    table = pd.DataFrame(
        {"chosen": [turns("q", "a")] * 3, "rejected": [turns("q", "b"), turns("r", "b"), turns("q", "c")]},
        index=[40, 10, 30],
        dtype=object,
    )
    [fault] = find_faults("preference_implicit", table).to_dict("records")
    assert (fault["index"], fault["column"]) == (10, "rejected")
    assert fault["value"].startswith('[{"role": "user", "content": "r"}')

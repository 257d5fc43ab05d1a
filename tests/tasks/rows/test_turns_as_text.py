"""Turns that stand as text in a column of prompts or answers are read as turns, and never trained as text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from support.row_reading import faults, read_record

USER, ANSWER = {"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}
OTHER = {"role": "assistant", "content": "B"}
SHAREGPT_USER, SHAREGPT_ANSWER = {"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}
WRITTEN_BY_PYTHON = "is a list of messages as Python prints it, not as JSON; write it with json.dumps"


def text_of(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record whose lists and objects are JSON texts, as a CSV file has them."""
    return {name: json.dumps(value) if isinstance(value, list | dict) else value for name, value in record.items()}


@pytest.mark.parametrize(
    "record",
    [
        pytest.param({"prompt": [USER], "completion": [ANSWER]}, id="prompt and completion"),
        pytest.param({"prompt": [SHAREGPT_USER], "completion": [SHAREGPT_ANSWER]}, id="sharegpt"),
        pytest.param({"prompt": "Q", "completion": ANSWER}, id="one turn"),
        pytest.param({"prompt": [USER], "chosen": [ANSWER], "rejected": [OTHER]}, id="preference"),
        pytest.param({"prompt": "Q", "chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, id="whole conversations"),
        pytest.param({"chosen": [USER, ANSWER], "rejected": [USER, OTHER]}, id="without a prompt"),
        pytest.param({"conversations": [SHAREGPT_USER], "chosen": ANSWER, "rejected": OTHER}, id="answers of sharegpt"),
        pytest.param({"messages": [USER], "chosen": ANSWER, "rejected": OTHER}, id="LLaMA-Factory's messages"),
        pytest.param({"prompt": [USER], "completion": [ANSWER], "label": True}, id="judged"),
    ],
)
def test_turns_as_json_text_are_turns(record: dict[str, Any]) -> None:
    assert read_record(text_of(record)) == read_record(record)
    assert "role" not in read_record(text_of(record))["completion"]


def test_an_answer_of_json_stays_an_answer() -> None:
    for answer in ('[{"name": "add"}]', '{"role": "admin", "content": "x"}', '[{"role": "user"', "[]", '["user"]'):
        assert read_record({"prompt": "Q", "completion": answer})["completion"] == answer


@pytest.mark.parametrize(
    "text",
    [
        "[{'role': 'assistant', 'content': 'A'}]",
        "[{'content': 'A', 'role': 'assistant'}]",
        "[{'from': 'gpt', 'value': 'A'}\n {'from': 'human', 'value': 'B'}]",
        "array([{'role': 'assistant', 'content': 'A'}], dtype=object)",
        "{'role': 'assistant', 'content': \"it's\"}",
    ],
)
def test_turns_that_python_printed_are_refused(text: str) -> None:
    assert faults({"prompt": "Q", "completion": text}) == [("completion", WRITTEN_BY_PYTHON)]
    assert faults({"messages": text}) == [("messages", WRITTEN_BY_PYTHON)]


def test_a_turn_of_text_with_a_broken_part_is_named() -> None:
    broken = json.dumps([{"role": "user", "content": "Q"}, {"role": "assistant", "content": ""}])
    assert faults({"prompt": "Q", "completion": broken}) == [("completion", "turn 2 content is empty")]

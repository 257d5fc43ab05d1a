"""Weights of answers: a row of which nothing is trained is refused where the rows are read."""

from __future__ import annotations

from typing import Any

import pytest
from support.row_reading import faults, read_record

USER = {"role": "user", "content": "Q"}
OFF: list[dict[str, Any]] = [{"weight": 0}, {"train": False}, {"loss_weight": 0}]


def answer(text: str = "A", **keys: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": text, **keys}


@pytest.mark.parametrize("off", OFF)
def test_a_conversation_without_a_trained_answer_is_refused(off: dict[str, Any]) -> None:
    reason = "has no answer that is trained: the weight of each is 0; take the row out"
    assert faults({"messages": [USER, answer(**off)]}) == [("messages", reason)]
    assert faults({"messages": [USER, answer(**off), USER, answer(**off)]}) == [("messages", reason)]
    assert faults({"prompt": [USER], "completion": [answer(**off)]}) == [("completion", reason)]
    assert read_record({"messages": [USER, answer(**off), USER, answer()]})["kind"] == "messages"


@pytest.mark.parametrize("off", OFF)
def test_an_answer_to_compare_or_judge_cannot_have_weight_0(off: dict[str, Any]) -> None:
    reason = "has weight 0, but answers that are compared or judged are all learned from; take the row out"
    chosen = {"prompt": [USER], "chosen": [answer(**off)], "rejected": [answer("B")]}
    assert faults(chosen) == [("chosen", reason)]
    rejected = {"chosen": [USER, answer()], "rejected": [USER, answer("B", **off)]}
    assert faults(rejected) == [("rejected", reason)]
    assert faults({"messages": [USER, answer(**off)], "label": True}) == [("messages", reason)]
    # the earlier answers are only the prompt
    earlier = {"messages": [USER, answer(**off), USER, answer()], "label": True}
    assert read_record(earlier)["kind"] == "kto"

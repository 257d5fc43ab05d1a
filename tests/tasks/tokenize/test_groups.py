"""Tokens keep the group of their row; several sequences of one row share its group, or else the row's id."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from support.token_rows import preference
from support.vendor_templates import vendor_setup

from configs.objectives import Objective
from tasks.tokenize.rows import Row
from tasks.tokenize.tokens import tokenize_rows

from .conftest import Family, Prepared

TURNS = (
    '[{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", "reasoning_content": "Greet."}, '
    '{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So.", "reasoning_content": "Explain."}]'
)


def test_the_files_of_tokens_hold_the_group_of_each_row(prepare: Callable[..., Prepared]) -> None:
    def row(text: str, **more: str) -> dict[str, str]:
        return {"kind": "pair", "prompt": text, "completion": "Yes.", "group": "", **more}

    prepared = prepare([row("One?", group="0123456789abcdef"), row("Two?")])
    assert list(prepared.rows.row_id) == ["f:1", "f:2"]
    assert list(prepared.rows.group) == ["0123456789abcdef", ""]


def test_rows_of_a_table_without_the_column_have_no_group(prepare: Callable[..., Prepared]) -> None:
    assert list(prepare([("One?", "Yes.")]).rows.group) == [""]


@pytest.mark.parametrize(("given", "expected"), [("", "f:1"), ("0123456789abcdef", "0123456789abcdef")])
def test_the_answers_of_a_conversation_that_is_taken_apart_share_a_group(given: str, expected: str) -> None:
    # Qwen3's template leaves out the reasoning of earlier answers, so each answer is a sequence of its own
    records = tokenize_rows([Row("f:1", "messages", "", "", TURNS, group=given)], vendor_setup("qwen3")).records
    assert [(record.row_id, record.group) for record in records] == [
        ("f:1#answer1", expected),
        ("f:1#answer2", expected),
    ]


@pytest.mark.parametrize(("given", "expected"), [("", "f:1"), ("0123456789abcdef", "0123456789abcdef")])
def test_the_pieces_of_a_split_row_share_a_group(families: dict[str, Family], given: str, expected: str) -> None:
    setup = families["chatml"].setup(max_length=8, over_length="split")
    records = tokenize_rows([Row("f:1", "text", "", "abcdefghijklmno", "", group=given)], setup).records
    assert [record.row_id for record in records] == ["f:1#1", "f:1#2"]
    assert [record.group for record in records] == [expected] * 2


@pytest.mark.parametrize(
    ("objective", "expected"), [("dpo", [("f:1", "")]), ("kto", [("f:1#chosen", "f:1"), ("f:1#rejected", "f:1")])]
)
def test_both_answers_of_a_preference_share_a_group_where_each_is_a_row(
    prepare: Callable[..., Prepared], objective: Objective, expected: list[tuple[str, str]]
) -> None:
    prepared = prepare([preference("Hi", "Ho", "No")], objective=objective)
    assert list(zip(prepared.rows.row_id, prepared.rows.group, strict=True)) == expected

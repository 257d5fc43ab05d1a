"""The forms in which data sets hold systems, histories, reasoning, weights, preferences and judgements."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.loading import load_data
from support.row_reading import faults, read_record

from configs.errors import DataError
from configs.schema import DataConfig, SourceConfig
from tasks.rows.formats import detect_format
from tasks.rows.turns import read_turns
from tasks.tokenize.checks import wrong_kind_error


def turn(role: str, content: str, **keys: object) -> dict[str, Any]:
    return {"role": role, "content": content, **keys}


USER, ANSWER = turn("user", "Q"), turn("assistant", "A")
SYSTEM = turn("system", "Be brief.")


def kind_of(record: dict[str, Any]) -> str:
    return detect_format(SourceConfig(path="rows.jsonl"), "rows.jsonl", [record], "data.sources[0]")


# systems, histories, contexts


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [USER, ANSWER], "system": "Be brief."},
        {"messages": [turn("developer", "Be brief."), USER, ANSWER]},
        {"messages": [SYSTEM, USER, ANSWER], "system": " Be brief. "},
        {"messages": json.dumps([SYSTEM, USER, ANSWER])},
        {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}], "system": "Be brief."},
        {"instruction": "Q", "output": "A", "system": "Be brief."},
        {"prompt": "Q", "completion": "A", "system": "Be brief."},
        {"prompt": [SYSTEM, USER], "completion": [ANSWER]},
    ],
)
def test_a_system_text_becomes_the_system_turn(record: dict[str, Any]) -> None:
    expected = {"kind": "messages", "prompt": "Q", "completion": "A", "messages": [SYSTEM, USER, ANSWER]}
    assert read_record(record) == expected


def test_two_different_systems_are_refused() -> None:
    record = {"messages": [SYSTEM, USER, ANSWER], "system": "Be verbose."}
    assert faults(record) == [("system", "contradicts the system turn in messages")]
    judged = {**record, "label": True}
    assert faults(judged) == [("system", "contradicts the system turn in messages")]
    assert faults({**record, "system": 7}) == [("system", "is a number, not text; quote it or map another column")]


def test_a_history_becomes_earlier_turns() -> None:
    record = {"instruction": "Q", "input": "", "output": "A", "history": [["Q1", "A1"], ["Q2", "A2"]]}
    earlier = [turn("user", "Q1"), turn("assistant", "A1"), turn("user", "Q2"), turn("assistant", "A2")]
    assert read_record(record)["messages"] == [*earlier, USER, ANSWER]
    assert read_record({**record, "history": json.dumps(record["history"])}) == read_record(record)
    # without a history the row stays a pair
    assert read_record({**record, "history": []}) == {"kind": "pair", "prompt": "Q", "completion": "A"}


@pytest.mark.parametrize(
    ("history", "reason"),
    [
        ("hello", "is text, not a list of [question, answer]"),
        (3, "is a number, not a list of [question, answer]"),
        ([["Q"]], "entry 1 is not [question, answer]"),
        ([["Q", "A"], ["Q", ""]], "entry 2 is empty"),
    ],
)
def test_a_broken_history_is_named(history: object, reason: str) -> None:
    assert faults({"instruction": "Q", "output": "A", "history": history}) == [("history", reason)]


def test_a_context_is_read_as_the_input() -> None:
    expected = {"kind": "pair", "prompt": "Q\n\nC", "completion": "A"}
    for columns in ({"context": "C"}, {"input": "C"}, {"input": "C", "context": "C"}, {"input": "", "context": "C"}):
        assert read_record({"instruction": "Q", "output": "A", **columns}) == expected
    contradicting = {"instruction": "Q", "output": "A", "input": "C", "context": "D"}
    assert faults(contradicting) == [("context", "differs from input, which holds the context too; keep one of them")]


def test_rows_that_begin_with_the_same_question_are_split_by_their_prompts(tmp_path: Path) -> None:
    rows = [{"instruction": f"And {n}?", "output": "A", "history": [["First q", "First a"]]} for n in range(12)]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    splits = [load_data(DataConfig(sources=[{"path": str(path)}], seed=seed)) for seed in range(3)]
    assert [(len(data.train), len(data.test)) for data in splits] == [(11, 1)] * 3
    assert len({data.test.prompt[0] for data in splits}) > 1
    assert any("begin with the same question" in warning for warning in splits[0].report.warnings)
    path.write_text("".join(json.dumps({**rows[0], "output": f"A {n}"}) + "\n" for n in range(12)))
    with pytest.raises(DataError, match="all rows ask the same question"):
        load_data(DataConfig(sources=[{"path": str(path)}]))


# reasoning and weights


@pytest.mark.parametrize(
    "answer",
    [
        turn("assistant", "A", reasoning_content="Think."),
        turn("assistant", "A", thinking="Think."),
        turn("assistant", "A", thinking="Think.", reasoning_content="Think."),
        {
            "role": "assistant",
            "content": [{"type": "reasoning", "value": "Think."}, {"type": "text", "value": "A"}],
        },
    ],
)
def test_reasoning_is_kept_beside_the_answer(answer: dict[str, Any]) -> None:
    thought = turn("assistant", "A", reasoning_content="Think.")
    assert read_record({"messages": [USER, answer]})["messages"] == [USER, thought]
    preference = read_record({"prompt": "Q", "chosen": [answer], "rejected": [turn("assistant", "B")]})
    assert (preference["completion"], preference["answer"]) == ("A", thought)
    assert "rejected_answer" not in preference


@pytest.mark.parametrize(
    ("turns", "reason"),
    [
        (
            [USER, turn("assistant", "A", thinking="a", reasoning_content="b")],
            "turn 2 has two different texts of reasoning",
        ),
        ([turn("user", "Q", thinking="a"), ANSWER], "turn 1 has reasoning, but is not from the assistant"),
        (
            [USER, turn("assistant", "A", thinking=["a"])],
            "turn 2 thinking is a list, not text; quote it or map another column",
        ),
    ],
)
def test_broken_reasoning_is_named(turns: list[dict[str, Any]], reason: str) -> None:
    assert faults({"messages": turns}) == [("messages", reason)]


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"loss_weight": 0.0}, {"train": False}])
@pytest.mark.parametrize("form", ["openai", "sharegpt"])
def test_an_answer_marked_as_untrained_has_weight_0(mark: dict[str, Any], form: str) -> None:
    def said(role: str, content: str, **keys: object) -> dict[str, Any]:
        names = {"user": "human", "assistant": "gpt"}
        return turn(role, content, **keys) if form == "openai" else {"from": names[role], "value": content, **keys}

    column = "messages" if form == "openai" else "conversations"
    trained = {next(iter(mark)): 1}
    turns = [
        said("user", "Q"),
        said("assistant", "bad", **mark),
        said("user", "fix"),
        said("assistant", "A", **trained),
    ]
    expected = [USER, turn("assistant", "bad", weight=0), turn("user", "fix"), ANSWER]
    assert read_record({column: turns})["messages"] == expected


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"weight": 0.5}, "turn 2 has a weight that is neither 0 nor 1"),
        ({"loss_weight": 0.5}, "turn 2 has a loss_weight that is neither 0 nor 1"),
        ({"weight": "0"}, "turn 2 has a weight that is neither 0 nor 1"),
        ({"weight": [0]}, "turn 2 has a weight that is neither 0 nor 1"),
        ({"train": "no"}, "turn 2 has a train that is neither true nor false"),
        ({"weight": 1, "train": False}, "turn 2 has weight, train that contradict each other"),
    ],
)
def test_a_weight_that_is_neither_0_nor_1_is_refused(keys: dict[str, Any], reason: str) -> None:
    assert faults({"messages": [USER, turn("assistant", "A", **keys)]}) == [("messages", reason)]
    turns = [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A", **keys}]
    assert faults({"conversations": turns}) == [("conversations", reason)]


# prompts and completions


def test_only_the_completion_of_a_conversation_is_trained() -> None:
    earlier = [turn("user", "Q1"), turn("assistant", "A1")]
    row = read_record({"prompt": [*earlier, USER], "completion": [ANSWER]})
    assert row["messages"] == [turn("user", "Q1"), turn("assistant", "A1", weight=0), USER, ANSWER]
    assert read_record({"prompt": "Q", "completion": [ANSWER]}) == {"kind": "pair", "prompt": "Q", "completion": "A"}
    assert faults({"prompt": [USER], "completion": [USER, ANSWER]}) == [
        ("completion", "does not follow on prompt: turns 1 and 2 are both from the user")
    ]


def test_lists_and_texts_in_one_column_are_judged_by_row(tmp_path: Path) -> None:
    rows = [{"prompt": f"Q {n}" if n % 2 else [turn("user", f"Q {n}")], "completion": "A"} for n in range(12)]
    rows += [{"prompt": 7, "completion": "A"}, {"prompt": ["Q"], "completion": "A"}]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_data(DataConfig(sources=[{"path": str(path)}], max_invalid_rows=2))
    assert sorted([*data.train.kind, *data.test.kind]) == ["messages"] * 6 + ["pair"] * 6
    assert list(data.quarantine.reason) == [
        "is a number, not text; quote it or map another column",
        "is a list, not text; quote it or map another column",
    ]


# preferences and judgements

WHOLE = [turn("user", "First"), turn("assistant", "ok"), USER]


def whole(answer: str) -> list[dict[str, Any]]:
    return [*WHOLE, turn("assistant", answer)]


PREFERENCE = {"kind": "preference", "prompt": "Q", "completion": "A", "rejected": "B", "messages": WHOLE}


@pytest.mark.parametrize(
    ("record", "name"),
    [
        ({"prompt": "First", "chosen": whole("A"), "rejected": whole("B")}, "preference"),
        ({"prompt": "Q", "chosen": whole("A"), "rejected": whole("B")}, "preference"),
        ({"prompt": WHOLE, "chosen": whole("A"), "rejected": whole("B")}, "preference"),
        ({"prompt": WHOLE, "chosen": whole("A"), "rejected": "B"}, "preference"),
        ({"chosen_messages": whole("A"), "rejected_messages": whole("B")}, "preference_messages"),
        (
            {
                "input": {"messages": WHOLE, "tools": []},
                "preferred_output": [ANSWER],
                "non_preferred_output": [turn("assistant", "B")],
            },
            "preference_openai",
        ),
    ],
)
def test_every_form_of_a_preference_gives_one_row(record: dict[str, Any], name: str) -> None:
    assert kind_of(record) == name
    assert read_record(record) == PREFERENCE


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (
            {"prompt": "Other", "chosen": whole("A"), "rejected": whole("B")},
            ("prompt", "is none of the user's turns in chosen"),
        ),
        (
            {"prompt": [turn("user", "Other")], "chosen": whole("A"), "rejected": whole("B")},
            ("chosen", "does not begin with the turns of prompt"),
        ),
        (
            {"prompt": "Q", "chosen": whole("A"), "rejected": [USER, turn("assistant", "B")]},
            ("rejected", "does not share its earlier turns with chosen"),
        ),
        ({"prompt": "Q", "chosen": [], "rejected": "B"}, ("chosen", "is empty")),
        (
            {"prompt": "Q", "chosen": [ANSWER, USER, ANSWER], "rejected": [ANSWER]},
            ("rejected", "does not share its earlier turns with chosen"),
        ),
        (
            {"prompt": "Q", "chosen": "A", "rejected": [ANSWER, USER, ANSWER]},
            ("chosen", "does not share its earlier turns with rejected"),
        ),
        (
            {"input": "Q", "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]},
            ("input", "is text, not an object with messages"),
        ),
        (
            {"input": {"messages": [ANSWER]}, "preferred_output": [ANSWER], "non_preferred_output": [ANSWER]},
            ("input", "messages: turn 1 is from the assistant, with no user turn before it"),
        ),
        (
            {
                "input": {"messages": [USER], "tools": "{"},
                "preferred_output": [ANSWER],
                "non_preferred_output": [ANSWER],
            },
            ("input", "tools: is text that is not JSON"),
        ),
    ],
)
def test_contradicting_preferences_are_named(record: dict[str, Any], fault: tuple[str, str]) -> None:
    assert faults(record) == [fault]


def test_openais_preferences_have_their_tools_in_the_input() -> None:
    record = {
        "input": {"messages": [USER], "tools": [{"name": "f"}]},
        "preferred_output": [ANSWER],
        "non_preferred_output": [turn("assistant", "B")],
    }
    assert read_record(record)["tools"] == [{"type": "function", "function": {"name": "f"}}]


def test_llama_factorys_parts_are_read() -> None:
    def said(role: str, text: str, weight: float) -> dict[str, Any]:
        return {"role": role, "content": [{"type": "text", "value": text}], "loss_weight": weight}

    bad, good = said("assistant", "bad", 0.0), said("assistant", "A", 1.0)
    row = read_record({"messages": [said("user", "Q", 0.0), bad, said("user", "fix", 0.0), good]})
    assert row["messages"] == [USER, turn("assistant", "bad", weight=0), turn("user", "fix"), ANSWER]
    called = {"role": "assistant", "content": [{"type": "tool_call", "value": '{"name": "f", "arguments": {}}'}]}
    [_, turn_with_call] = read_turns([USER, called], "assistant")
    assert turn_with_call["tool_calls"] == [{"type": "function", "function": {"name": "f", "arguments": {}}}]


@pytest.mark.parametrize(
    ("columns", "name", "messages"),
    [
        ({"messages": [*WHOLE, ANSWER]}, "kto_messages", WHOLE),
        (
            {"conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]},
            "kto_sharegpt",
            [USER],
        ),
        ({"instruction": "Q", "output": "A"}, "kto_instruction", None),
    ],
)
def test_a_label_beside_a_row_makes_it_a_judged_answer(
    columns: dict[str, Any], name: str, messages: list[dict[str, Any]] | None
) -> None:
    """Judged rows are of kind kto, which supervised fine-tuning refuses: an answer judged bad is never trained."""
    record = {**columns, "label": False}
    assert kind_of(record) == name
    row = read_record(record)
    assert (row["kind"], row["prompt"], row["completion"], row["label"]) == ("kto", "Q", "A", "false")
    assert row.get("messages") == messages
    assert "kind kto" in str(wrong_kind_error("rows.jsonl", "kto", "sft"))
    assert faults(record | {"label": "maybe"}, row_format=name) == [("label", "is neither true nor false")]


def test_a_label_that_is_a_class_is_no_judgement() -> None:
    assert kind_of({"instruction": "Q", "output": "A", "label": "sports"}) == "instruction"
    assert kind_of({"messages": [USER, ANSWER], "label": 1}) == "messages"


def test_messages_are_the_prompt_of_a_preference_only_if_the_user_speaks_last() -> None:
    """LLaMA-Factory's rows, and others such as UltraFeedback's, which repeat the chosen conversation in `messages`."""
    other = turn("assistant", "B")
    assert kind_of({"messages": [USER], "chosen": ANSWER, "rejected": other}) == "preference_chat"
    whole = {"messages": [USER, ANSWER], "chosen": [USER, ANSWER], "rejected": [USER, other]}
    assert kind_of(whole) == "preference_implicit"
    assert kind_of({**whole, "prompt": "Q"}) == "preference"
    assert read_record(whole) == read_record({"messages": [USER], "chosen": ANSWER, "rejected": other})


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_the_reasoning_of_a_turn_is_read_under_each_of_its_names(key: str) -> None:
    expected = [USER, turn("assistant", "A", reasoning_content="Hm.")]
    assert read_record({"messages": [USER, turn("assistant", "A", **{key: "Hm."})]})["messages"] == expected
    broken = {"messages": [USER, turn("assistant", "A", **{key: {"effort": "low"}})]}
    [(_, reason)] = faults(broken)
    assert reason == f"turn 2 {key} is an object, not text; quote it or map another column"


@pytest.mark.parametrize(
    "record",
    [
        {"instruction": "Q", "output": "A", "reasoning_content": "Hm."},
        {"prompt": "Q", "completion": "A", "reasoning_content": "Hm."},
        {"prompt": "Q", "completion": [ANSWER], "reasoning_content": "Hm."},
    ],
)
def test_a_column_of_reasoning_belongs_to_the_answer(record: dict[str, Any]) -> None:
    assert read_record(record)["messages"] == [USER, turn("assistant", "A", reasoning_content="Hm.")]
    assert read_record({**record, "reasoning_content": " "})["kind"] in ("pair", "messages")


def test_reasoning_in_a_column_and_in_the_turn_must_agree() -> None:
    record = {"prompt": "Q", "completion": [turn("assistant", "A", thinking="Ah.")], "reasoning_content": "Hm."}
    assert faults(record) == [("reasoning_content", "differs from the reasoning in the answer's turn")]

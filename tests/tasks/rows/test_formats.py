"""Every row format: recognised by its columns, checked turn by turn, and turned into one canonical row."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from conftest import SHARED_DATA
from support.loading import LoadedData, load_data

from configs.schema import DataConfig, SourceConfig
from tasks.rows.formats import canonical_entries, column_mapping, columns_read
from tasks.rows.invalid import InvalidRowsError
from tasks.rows.sources import RawRow


def load(path: Path, rows: list[dict] | None = None, **settings: object) -> LoadedData:
    if rows is not None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return load_data(DataConfig(sources=[{"path": str(path)}], **settings))


def canonical_row(data: LoadedData, line: int = 1):
    """Return the canonical row that came from a line of the file."""
    import pandas as pd

    rows = pd.concat([data.train, data.test])
    [found] = [r for r in rows.itertuples() if r.row_id.endswith(f":{line}")]
    return found


CALL = json.dumps({"name": "weather", "arguments": {"city": "Oslo"}})


def sharegpt(n: int) -> dict:
    turns = [("human", f"weather {n}?"), ("function_call", CALL), ("observation", "rain"), ("gpt", "It rains.")]
    return {"conversations": [{"from": who, "value": text} for who, text in turns], "system": "Be brief."}


def test_the_columns_that_a_format_reads_are_the_required_and_the_optional_ones() -> None:
    assert columns_read("instruction")[:2] == ("instruction", "output")
    assert "input" in columns_read("instruction")
    assert columns_read("text") == ("text",)


def test_sharegpt_becomes_messages_with_tool_calls(tmp_path: Path) -> None:
    data = load(tmp_path / "chats.jsonl", [sharegpt(n) for n in range(12)])
    assert data.report.sources[0].format == "sharegpt"
    assert json.loads(canonical_row(data).messages) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "weather 0?"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}],
        },
        {"role": "tool", "content": "rain"},
        {"role": "assistant", "content": "It rains."},
    ]


def test_messages_keep_their_tool_calls(tmp_path: Path) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}

    def row(n: int) -> dict:
        return {
            "messages": [
                {"role": "user", "content": f"u {n}"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "1", "content": "t"},
                {"role": "tool", "tool_call_id": "1", "content": "t"},
                {"role": "assistant", "content": "a"},
            ]
        }

    messages = json.loads(canonical_row(load(tmp_path / "m.jsonl", [row(n) for n in range(12)])).messages)
    called = {**call, "function": {"name": "f", "arguments": {}}}
    assert messages[1] == {"role": "assistant", "content": "", "tool_calls": [called]}
    assert messages[2] == {"role": "tool", "content": "t", "tool_call_id": "1"}


@pytest.mark.parametrize("form", ["text", "messages"])
def test_preferences_have_a_chosen_and_a_rejected_answer(form: str, tmp_path: Path) -> None:
    def turn(role: str, text: str) -> object:
        return text if form == "text" else [{"role": role, "content": text}]

    rows = [
        {"prompt": turn("user", f"q {n}"), "chosen": turn("assistant", "good"), "rejected": turn("assistant", "bad")}
        for n in range(12)
    ]
    data = load(tmp_path / "preferences.jsonl", rows)
    row = canonical_row(data)
    assert data.report.sources[0].format == "preference"
    assert (row.kind, row.prompt, row.completion, row.rejected) == ("preference", "q 0", "good", "bad")
    assert json.loads(row.messages or "[]") == ([] if form == "text" else [{"role": "user", "content": "q 0"}])


def test_kto_rows_have_a_label(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "completion": "a", "label": n % 2 == 0} for n in range(12)]
    data = load(tmp_path / "kto.jsonl", rows)
    first, second = canonical_row(data, 1), canonical_row(data, 2)
    assert (first.kind, first.label, second.label) == ("kto", "true", "false")
    rows[3]["label"] = "maybe"
    with pytest.raises(InvalidRowsError, match=r"kto.jsonl row 4, column label: is neither true nor false"):
        load(tmp_path / "kto.jsonl", rows)


def test_real_preferences_in_sharegpt_form_load_whole() -> None:
    path = SHARED_DATA / "preferences_sharegpt.json"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    data = load(path, max_invalid_rows=300)
    [count] = data.report.sources
    assert (count.format, count.read) == ("preference_sharegpt", 300)
    assert count.read == count.kept + count.quarantined + count.deduplicated
    assert count.kept > 290
    assert (data.train.rejected != "").all() and (data.train.completion != "").all()


def turns(*roles: str) -> list[dict]:
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "f"}}]}
    return [call if role == "call" else {"role": role, "content": "x"} for role in roles]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": turns("user", "call", "tool")}, "does not end with an assistant turn"),
        ({"messages": turns("user", "assistant", "tool", "assistant")}, "turn 3 is from a tool that no assistant turn"),
        ({"messages": turns("user", "tool", "assistant")}, "turn 2 is from a tool that no assistant turn"),
        (
            {"messages": [*turns("user"), {"role": "assistant", "tool_calls": [{}]}]},
            "tool calls without function names",
        ),
        ({"messages": turns("user", "call", "tool", "user", "assistant")}, "the assistant should answer the tool"),
        ({"conversations": [{"from": "robot", "value": "x"}]}, "turn 1 has a `from` that is none of"),
        ({"conversations": [{"from": "human", "value": ""}]}, "turn 1 value is empty"),
        (
            {"conversations": [{"from": "human", "value": "x"}, {"from": "function_call", "value": "f()"}]},
            "turn 2 is a function call that is not JSON",
        ),
        ({"prompt": "p", "chosen": "", "rejected": "r"}, "is empty"),
        ({"prompt": turns("user", "assistant"), "chosen": "c", "rejected": "r"}, "does not end with a user turn"),
        ({"prompt": "p", "chosen": turns("user"), "rejected": "r"}, "is not a turn of the assistant"),
    ],
)
def test_a_broken_row_is_named_with_its_fault(row: dict, reason: str, tmp_path: Path) -> None:
    good = {
        "messages": {"messages": turns("user", "assistant")},
        "conversations": {"conversations": [{"from": "human", "value": "x"}, {"from": "gpt", "value": "y"}]},
        "prompt": {"prompt": "p", "chosen": "c", "rejected": "r"},
    }[next(iter(row))]
    with pytest.raises(InvalidRowsError) as caught:
        load(tmp_path / "rows.jsonl", [good] * 11 + [row])
    assert "rows.jsonl row 12" in str(caught.value) and reason in str(caught.value)


def test_an_implicit_prompt_is_the_turns_that_both_answers_share(tmp_path: Path) -> None:
    def conversation(n: int, answer: str) -> list[dict]:
        contents = [f"opening {n}", "a", f"q {n}", answer]
        return [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, contents, strict=True)]

    rows = [{"chosen": conversation(n, "good"), "rejected": conversation(n, "bad")} for n in range(12)]
    data = load(tmp_path / "preferences.jsonl", rows)
    row = canonical_row(data)
    assert data.report.sources[0].format == "preference_implicit"
    assert (row.kind, row.prompt, row.completion, row.rejected) == ("preference", "q 0", "good", "bad")
    assert json.loads(row.messages) == conversation(0, "good")[:-1]
    rows[3]["rejected"] = conversation(99, "bad")
    with pytest.raises(InvalidRowsError, match=r"row 4, column rejected: does not share its earlier turns with chosen"):
        load(tmp_path / "preferences.jsonl", rows)


def tool_chat(call: dict, answered: str) -> dict:
    return {
        "messages": [
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "content": "r", "tool_call_id": answered},
            {"role": "assistant", "content": "a"},
        ]
    }


TOOL_CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (tool_chat(TOOL_CALL, "nope"), "turn 3 has a tool_call_id that no call before it has"),
        (
            tool_chat({**TOOL_CALL, "function": {"name": "f", "arguments": "{not"}}, "c1"),
            "turn 2 has a tool call whose arguments are not a JSON object",
        ),
        (tool_chat({"id": "c1"}, "c1"), "turn 2 has tool calls without function names"),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "function_call": {"arguments": {}}}]},
            "turn 2 has tool calls without function names",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}, {"role": "assistant", "content": "a"}]},
            "turn 1 content has parts that are not text",
        ),
        (
            {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "weight": 0.5}]},
            "turn 2 has a weight that is neither 0 nor 1",
        ),
    ],
)
def test_turns_that_would_be_trained_wrongly_are_faults(row: dict, fault: str, tmp_path: Path) -> None:
    good = [tool_chat({**TOOL_CALL, "function": {"name": "f", "arguments": {"x": n}}}, "c1") for n in range(12)]
    with pytest.raises(InvalidRowsError, match=f"row 13, column messages: {fault}"):
        load(tmp_path / "chats.jsonl", [*good, row])


def test_text_parts_are_joined_and_a_weight_of_0_is_kept(tmp_path: Path) -> None:
    def chat(n: int) -> dict:
        parts = [{"type": "text", "text": f"question {n}"}, {"type": "text", "text": " please"}]
        answer = {"role": "assistant", "content": "a", "weight": 0}
        return {"messages": [{"role": "user", "content": parts}, answer, *CHAT_END]}

    row = canonical_row(load(tmp_path / "chats.jsonl", [chat(n) for n in range(12)]))
    assert json.loads(row.messages) == [
        {"role": "user", "content": "question 0 please"},
        {"role": "assistant", "content": "a", "weight": 0},
        *[{key: turn[key] for key in ("role", "content")} for turn in CHAT_END],
    ]


CHAT_END = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "z", "weight": 1}]


def test_a_mapped_column_is_not_read_again_under_its_own_name() -> None:
    source = SourceConfig(path="rows.jsonl", columns={"instruction": "input"})
    record = {"input": "q", "output": "a"}
    [entry] = canonical_entries(column_mapping(source), "instruction", RawRow("rows.jsonl", 1, record))
    assert (entry.record["instruction"], entry.record["input"]) == ("q", None)

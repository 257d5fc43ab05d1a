"""Rows with tools: every form of definitions and calls gives one canonical row, and broken ones are named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support.loading import load_data
from support.row_reading import faults, read_record

from configs.schema import DataConfig

WEATHER = {
    "name": "weather",
    "description": "Weather of a city",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
TOOLS = [{"type": "function", "function": WEATHER}]
PARIS = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
CALLED = {"role": "assistant", "content": "", "tool_calls": [PARIS]}
USER = {"role": "user", "content": "Weather in Paris?"}
RESULT = {"role": "tool", "content": "12"}
ANSWER = {"role": "assistant", "content": "12 C."}


def renamed(key: str) -> dict[str, Any]:
    return {"name": "weather", "description": WEATHER["description"], key: WEATHER["parameters"]}


def call(arguments: object, **keys: object) -> dict[str, Any]:
    function = {"name": "weather", "arguments": arguments}
    return {"role": "assistant", "content": None, "tool_calls": [{**keys, "type": "function", "function": function}]}


def chat(*turns: dict[str, Any], **columns: object) -> dict[str, Any]:
    return {"messages": list(turns), **columns}


@pytest.mark.parametrize(
    "tools",
    [
        pytest.param(TOOLS, id="list"),
        pytest.param(json.dumps(TOOLS), id="text"),
        pytest.param([WEATHER], id="bare"),
        pytest.param(json.dumps([WEATHER]), id="bare text"),
        pytest.param(WEATHER, id="single"),
        pytest.param([json.dumps(WEATHER)], id="list of texts"),
        pytest.param([{"type": "function", **WEATHER}], id="flat"),
        pytest.param([renamed("input_schema")], id="Anthropic"),
        pytest.param([{"type": "custom", **renamed("input_schema")}], id="Anthropic with its type"),
        pytest.param([renamed("inputSchema")], id="MCP"),
        pytest.param([{"type": "function", "function": renamed("input_schema")}], id="both forms"),
        pytest.param([{**WEATHER, "input_schema": None}], id="a null of a table"),
        pytest.param([{**WEATHER, "parameters": json.dumps(WEATHER["parameters"])}], id="parameters as text"),
    ],
)
def test_every_form_of_tool_definitions_becomes_openais(tools: object) -> None:
    assert read_record(chat(USER, ANSWER, tools=tools))["tools"] == TOOLS


@pytest.mark.parametrize("tools", [None, [], "", "[]", "null", {}, "{}"])
def test_a_row_without_tools_has_none(tools: object) -> None:
    # without definitions, any call may be right
    assert "tools" not in read_record(chat(USER, CALLED, tools=tools))


@pytest.mark.parametrize("arguments", [{"city": "Paris"}, '{"city": "Paris"}', ' {"city":\n"Paris"} '])
def test_arguments_as_an_object_and_as_text_give_the_same_row(arguments: object) -> None:
    row = read_record(chat(USER, call(arguments, id="c1"), {**RESULT, "tool_call_id": "c1"}, ANSWER, tools=TOOLS))
    assert row["messages"] == [
        USER,
        {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", **PARIS}]},
        {"role": "tool", "content": "12", "tool_call_id": "c1"},
        ANSWER,
    ]
    assert (row["kind"], row["prompt"], row["completion"]) == ("messages", "Weather in Paris?", "12 C.")


@pytest.mark.parametrize("content", [None, "", " \n", []])
def test_a_call_without_text_has_an_empty_content(content: object) -> None:
    assert read_record(chat(USER, {**CALLED, "content": content}))["messages"] == [USER, CALLED]
    beside = {**CALLED, "content": "I look it up."}
    assert read_record(chat(USER, beside))["messages"] == [USER, beside]


def test_parallel_calls_have_several_results() -> None:
    calls = [{"id": name, **PARIS} for name in ("a", "b")]
    turns = [USER, {"role": "assistant", "content": "", "tool_calls": calls}]
    turns += [{"role": "tool", "content": name, "tool_call_id": name} for name in ("a", "b")]
    assert read_record(chat(*turns, ANSWER))["messages"] == [*turns, ANSWER]


def test_a_conversation_may_end_with_a_call() -> None:
    row = read_record(chat(USER, call('{"city": "Paris"}')))
    assert row == {"kind": "messages", "prompt": "Weather in Paris?", "messages": [USER, CALLED]}


def test_sharegpt_calls_with_a_tools_column() -> None:
    """LLaMA-Factory's glaive rows; the calls of one turn may be a list."""
    value = json.dumps({"name": "weather", "arguments": {"city": "Paris"}})
    turns = [("human", USER["content"]), ("function_call", value), ("observation", "12"), ("gpt", "12 C.")]
    record = {
        "conversations": [{"from": who, "value": text} for who, text in turns],
        "tools": json.dumps([WEATHER]),
    }
    row = read_record(record)
    assert (row["messages"], row["tools"]) == ([USER, CALLED, RESULT, ANSWER], TOOLS)
    record["conversations"][1]["value"] = f"[{value}, {value}]"
    assert read_record(record)["messages"][1]["tool_calls"] == [PARIS, PARIS]


def test_xlam_rows_hold_json_texts() -> None:
    properties = {"city": {"type": "str", "description": "A city"}}
    record = {
        "id": 7,
        "query": USER["content"],
        "tools": json.dumps([{"name": "weather", "description": "d", "parameters": properties}]),
        "answers": json.dumps([{"name": "weather", "arguments": {"city": "Paris"}}]),
    }
    row = read_record(record)
    assert row["messages"] == [USER, CALLED]
    # the row lists the properties alone; a template reads a JSON schema
    assert row["tools"][0]["function"]["parameters"] == {"type": "object", "properties": properties}
    assert faults({**record, "answers": "[]"}) == [("answers", "is empty")]
    assert faults({**record, "answers": "{"}) == [("answers", "has tool calls that are not JSON")]
    assert faults({**record, "tools": "[]"}) == [("tools", "is empty")]


def test_answers_to_compare_may_be_calls() -> None:
    record = {"prompt": USER["content"], "chosen": [call('{"city": "Paris"}')], "rejected": "I do not know."}
    assert read_record({**record, "tools": TOOLS}) == {
        "kind": "preference",
        "prompt": USER["content"],
        "rejected": "I do not know.",
        "tools": TOOLS,
        "answer": CALLED,
    }
    judged = {"prompt": USER["content"], "completion": call({"city": "Paris"}), "label": True}
    assert read_record(judged) == {"kind": "kto", "prompt": USER["content"], "label": "true", "answer": CALLED}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        (chat(USER, ANSWER, tools="[{"), ("tools", "is text that is not JSON")),
        (chat(USER, ANSWER, tools=7), ("tools", "is a number, not a list of tool definitions")),
        (chat(USER, ANSWER, tools=[WEATHER, {}]), ("tools", "tool 2 is not a function with a name")),
        (
            chat(USER, ANSWER, tools=[{**WEATHER, "input_schema": {}}]),
            ("tools", "tool 1 has input_schema and parameters, which differ"),
        ),
        (
            chat(USER, ANSWER, tools=[{"name": "f", "parameters": "a city"}]),
            ("tools", "tool 1 has parameters that are text, and not JSON"),
        ),
        (
            chat(USER, {"role": "assistant", "content": [{"type": "tool_use", "name": "f", "input": {}}]}),
            (
                "messages",
                "turn 2 content has a part of type tool_use, Anthropic's form; write tool_calls and tool turns",
            ),
        ),
        (
            chat(USER, call('{"city": "Paris", "city": "Rome"}')),
            ("messages", "turn 2 has a tool call whose arguments are not a JSON object"),
        ),
        (
            chat(USER, {**CALLED, "tool_calls": [{**PARIS, "thought": "T"}]}),
            ("messages", "turn 2 has a tool call with thought, which is not read; a call has name and arguments"),
        ),
        (
            chat(USER, {**CALLED, "tool_calls": [{"name": "f", "arguments": {}, "input": {}}]}),
            ("messages", "turn 2 has a tool call with two of arguments, parameters, input, args"),
        ),
        (
            chat(USER, ANSWER, tools=[{"name": "f", "parameters": [{"name": "x"}]}]),
            ("tools", "tool 1 has parameters that are a list, not a JSON schema"),
        ),
        (
            chat(USER, ANSWER, tools=[{"name": "f", "arguments": {"x": {"type": "int"}}}]),
            ("tools", "tool 1 has arguments, and no parameters; write these as parameters, a JSON schema"),
        ),
        (chat(USER, {**ANSWER, "value": "other"}), ("messages", "turn 2 has content and value, which differ")),
        (chat(USER, ANSWER, tools=["x"]), ("tools", "tool 1 is text that is not JSON")),
        (chat(USER, call("{")), ("messages", "turn 2 has a tool call whose arguments are not a JSON object")),
        (chat(USER, call("[1]")), ("messages", "turn 2 has a tool call whose arguments are not a JSON object")),
        (chat(USER, call('{"x": NaN}')), ("messages", "turn 2 has a tool call whose arguments are not a JSON object")),
        (
            chat(USER, call('{"x": "\\ud800"}')),
            ("messages", "turn 2 has a tool call whose arguments are not a JSON object"),
        ),
        (chat(USER, call({}, id=[1])), ("messages", "turn 2 has a tool call whose id is not text")),
        (
            chat(USER, CALLED, tools=[{"name": "other"}]),
            ("messages", "turn 2 calls a tool that `tools` does not define"),
        ),
        (
            chat(USER, ANSWER, RESULT, ANSWER),
            ("messages", "turn 3 is from a tool that no assistant turn before it called"),
        ),
        (
            chat({**USER, "tool_calls": [PARIS]}, ANSWER),
            ("messages", "turn 1 has tool calls, but is not from the assistant"),
        ),
        (chat("text", ANSWER), ("messages", "turn 1 is not an object with a role")),
    ],
)
def test_broken_tools_and_calls_are_named(record: dict[str, Any], fault: tuple[str, str]) -> None:
    assert faults(record) == [fault]


def test_a_result_may_follow_a_call_that_is_written_in_the_text() -> None:
    written = {"role": "assistant", "content": '<tool_call>\n{"name": "weather"}\n</tool_call>'}
    assert faults(chat(USER, written, RESULT, ANSWER)) == []


def test_nulls_that_a_table_adds_to_structs_are_not_arguments(tmp_path: Path) -> None:
    arguments = [{"lat": 1.5, "city": None} if n % 2 else {"lat": None, "city": "Paris"} for n in range(12)]
    rows = [{"messages": [{**USER, "content": f"q {n}", "tool_calls": None}, call(arguments[n])]} for n in range(12)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "rows.parquet")
    data = load_data(DataConfig(sources=[{"path": str(tmp_path / "rows.parquet")}]))
    found = {}
    for row in [*data.train.itertuples(), *data.test.itertuples()]:
        turns = json.loads(row.messages)
        found[turns[0]["content"]] = turns[1]["tool_calls"][0]["function"]["arguments"]
    assert found == {f"q {n}": {"lat": 1.5} if n % 2 else {"city": "Paris"} for n in range(12)}


def test_a_null_that_the_row_itself_holds_stays() -> None:
    for arguments in ({"city": None}, '{"city": null}'):
        [_, called] = read_record(chat(USER, call(arguments)))["messages"]
        assert called["tool_calls"][0]["function"]["arguments"] == {"city": None}


@pytest.mark.parametrize("deduplicate", ["exact", "near"])
def test_rows_that_differ_in_their_tools_are_not_duplicates(deduplicate: str, tmp_path: Path) -> None:
    words = " ".join(f"word{n}" for n in range(30))
    rows = [chat({"role": "user", "content": f"{n} {n}"}, ANSWER) for n in range(10)]
    question = {"role": "user", "content": words}
    rows += [chat(question, ANSWER, tools=[{**WEATHER, "description": text}]) for text in ("a", "b", "b")]
    rows.append(chat(question, ANSWER))
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = load_data(DataConfig(sources=[{"path": str(path)}], deduplicate=deduplicate))
    assert list(data.quarantine.row) == [13]
    assert data.quarantine.reason[0].endswith(" as rows.jsonl:12")


@pytest.mark.parametrize("key", ["arguments", "parameters", "input", "args"])
@pytest.mark.parametrize("is_nested", [True, False])
def test_arguments_are_read_under_each_of_their_names(key: str, is_nested: bool) -> None:
    given: dict[str, Any] = {"name": "weather", key: {"city": "Paris"}}
    called = {"role": "assistant", "content": "", "tool_calls": [{"function": given} if is_nested else given]}
    assert read_record(chat(USER, called))["messages"] == [USER, CALLED]
    turns = [{"from": "human", "value": USER["content"]}, {"from": "function_call", "value": json.dumps(given)}]
    assert read_record({"conversations": turns})["messages"] == [USER, CALLED]
    rows = {"query": USER["content"], "tools": [WEATHER], "answers": json.dumps([given])}
    assert read_record(rows)["messages"] == [USER, CALLED]
    # beside `function`
    beside = {"function": {"name": "weather"}, key: {"city": "Paris"}}
    assert read_record(chat(USER, {**called, "tool_calls": [beside]}))["messages"] == [USER, CALLED]


def test_openais_old_form_of_a_call_is_read() -> None:
    old = {"role": "assistant", "content": None, "function_call": {"name": "weather", "arguments": '{"city": "Paris"}'}}
    result = {"role": "function", "name": "weather", "content": "12"}
    expected = [USER, CALLED, {**RESULT, "name": "weather"}, ANSWER]
    assert read_record(chat(USER, old, result, ANSWER))["messages"] == expected


def test_a_thought_before_a_call_of_sharegpt_is_its_reasoning() -> None:
    value = '<think>\nLook.\n</think>\n{"name": "weather", "arguments": {"city": "Paris"}}'
    turns = [{"from": "human", "value": USER["content"]}, {"from": "function_call", "value": value}]
    assert read_record({"conversations": turns})["messages"] == [USER, {**CALLED, "reasoning_content": "Look."}]


@pytest.mark.parametrize(
    "names", [("human", "gpt", "function_call", "observation"), ("user", "model", "tool_call", "tool_response")]
)
def test_sharegpts_roles_have_several_names(names: tuple[str, ...]) -> None:
    user, model, called, result = names
    value = json.dumps({"name": "weather", "arguments": {"city": "Paris"}})
    turns = [(user, USER["content"]), (called, value), (result, "12"), (model, "12 C.")]
    record = {"conversations": [{"from": who, "value": text} for who, text in turns]}
    assert read_record(record)["messages"] == [USER, CALLED, RESULT, ANSWER]


@pytest.mark.parametrize(
    ("content", "text"), [({"c": 12}, '{"c": 12}'), ([1, 2], "[1, 2]"), ([{"c": 1}], '[{"c": 1}]')]
)
def test_a_result_may_be_an_object_or_a_list(content: object, text: str) -> None:
    turns = read_record(chat(USER, CALLED, {**RESULT, "content": content}, ANSWER))["messages"]
    assert turns[2] == {**RESULT, "content": text}


def test_a_parameter_may_be_named_type() -> None:
    properties = {"type": {"type": "str", "description": "Kind"}, "city": {"type": "str"}}
    row = read_record(chat(USER, ANSWER, tools=[{"name": "f", "parameters": properties}]))
    assert row["tools"][0]["function"]["parameters"] == {"type": "object", "properties": properties}

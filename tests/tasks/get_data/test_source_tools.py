"""Tool definitions that the config gives once for a source: which rows take them, and how they are counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.loading import LoadedData, load_data

from configs.errors import DataError
from configs.schema import DataConfig, SourceConfig
from tasks.get_data.merge import summary_lines
from tasks.plan.checks.first_rows import read_first_rows

BARE = {"name": "add", "description": "Add.", "parameters": {"type": "object", "properties": {}}}
ADD = {"type": "function", "function": BARE}
OWN = {"type": "function", "function": {"name": "sub"}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {}}}


def config(path: Path, rows: list[dict[str, Any]], tools: Any, **settings: Any) -> DataConfig:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(sources=[{"path": str(path), "tools": tools, **settings}])


def load(path: Path, rows: list[dict[str, Any]], tools: Any, **settings: Any) -> LoadedData:
    return load_data(config(path, rows, tools, **settings))


def tools_of(data: LoadedData) -> set[str]:
    return {*data.train.tools, *data.test.tools}


def chats(**columns: Any) -> list[dict[str, Any]]:
    return [
        {
            "messages": [
                {"role": "user", "content": f"q {n}"},
                {"role": "assistant", "content": "", "tool_calls": [CALL]},
            ],
            **columns,
        }
        for n in range(12)
    ]


@pytest.mark.parametrize("tools", [json.dumps([ADD]), json.dumps([BARE]), json.dumps(ADD), [ADD], [BARE], ADD])
def test_all_forms_of_a_column_are_read(tools: Any, tmp_path: Path) -> None:
    found = {json.dumps(json.loads(text)) for text in tools_of(load(tmp_path / "rows.jsonl", chats(), tools))}
    assert found == {json.dumps([ADD])}


@pytest.mark.parametrize("empty", [None, "", " ", "[]", "null", []])
def test_a_row_without_tools_takes_those_of_its_source(empty: Any, tmp_path: Path) -> None:
    data = load(tmp_path / "rows.jsonl", chats(tools=empty), [ADD])
    assert [json.loads(text) for text in tools_of(data)] == [[ADD]]


def test_rows_keep_their_own_tools_and_both_kinds_are_counted(tmp_path: Path) -> None:
    rows = chats()
    for row in rows[:5]:
        row["definitions"] = [ADD, OWN]
    data = load(tmp_path / "rows.jsonl", rows, [ADD], columns={"tools": "definitions"})
    table = [*data.train.tools, *data.test.tools]
    assert sum(json.loads(text) == [ADD, OWN] for text in table) == 5
    assert sum(json.loads(text) == [ADD] for text in table) == 7
    uses = [(use.name, use.rows, use.of, use.use) for use in data.report.columns if "definitions" in use.name]
    assert uses == [("definitions", 5, 12, "prompt")]
    assert "tools (of the source): prompt (7 rows)" in summary_lines(data.report)[0]


def test_shards_count_as_one_machine_does(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    whole = config(path, chats(), [ADD])
    assert load_data(whole).report.columns == load_data(whole.model_copy(update={"shards": 3})).report.columns


def test_pairs_with_tools_are_conversations(tmp_path: Path) -> None:
    rows = [{"prompt": f"q {n}", "completion": f"a {n}"} for n in range(12)]
    assert set(load(tmp_path / "rows.jsonl", rows, [ADD]).train.kind) == {"messages"}
    assert set(load(tmp_path / "rows.jsonl", rows, "").train.kind) == {"pair"}


def test_a_call_must_be_to_a_tool_of_the_source(tmp_path: Path) -> None:
    first = read_first_rows(config(tmp_path / "rows.jsonl", chats(), [OWN]), "sources", 0, "", None)
    assert {failure.reason for failure in first.failures} == {"turn 2 calls a tool that `tools` does not define"}


@pytest.mark.parametrize("as_text", [False, True])
def test_preferences_in_openais_form_take_them_in_their_input(as_text: bool, tmp_path: Path) -> None:
    def row(number: int, **tools: Any) -> dict[str, Any]:
        given = {"messages": [{"role": "user", "content": f"q {number}"}], **tools}
        return {
            "input": json.dumps(given) if as_text else given,
            "preferred_output": [{"role": "assistant", "content": "a"}],
            "non_preferred_output": [{"role": "assistant", "content": "b"}],
        }

    rows = [row(n, tools=[OWN]) if n < 4 else row(n) for n in range(12)]
    data = load(tmp_path / "rows.jsonl", rows, [ADD])
    table = [json.loads(text) for text in [*data.train.tools, *data.test.tools]]
    assert (table.count([OWN]), table.count([ADD])) == (4, 8)
    assert "tools (of the source): prompt (8 rows)" in summary_lines(data.report)[0]


def test_xlams_rows_need_no_column_of_tools(tmp_path: Path) -> None:
    rows = [{"query": f"q {n}", "answers": json.dumps([{"name": "add", "arguments": {}}])} for n in range(12)]
    data = load(tmp_path / "rows.jsonl", rows, [ADD])
    assert [count.format for count in data.report.sources] == ["xlam"]
    assert [json.loads(text) for text in tools_of(data)] == [[ADD]]


def test_a_format_that_reads_no_tools_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"^data\.sources\[0\]\.tools: format text reads no tools; remove it"):
        load(tmp_path / "rows.jsonl", [{"text": f"t {n}"} for n in range(12)], [ADD])


@pytest.mark.parametrize(
    "tools", ["{", "[NaN]", "[" * 100_000, '"add"', "[1]", "[{}]", '[{"function": "add"}]', "[null]"]
)
def test_malformed_definitions_are_one_line(tools: str) -> None:
    with pytest.raises(
        ValueError, match=r"readable JSON|NaN|nested|tool 1 is not a function with a name; write"
    ) as caught:
        SourceConfig(path="rows.jsonl", tools=tools)
    assert sum("write a list" in line for line in str(caught.value).splitlines()) == 1


def test_a_config_with_tools_travels_as_text() -> None:
    source = SourceConfig(path="rows.jsonl", tools=[ADD])
    assert source.tools == json.dumps([ADD])
    assert SourceConfig.model_validate_json(source.model_dump_json()) == source
    assert SourceConfig(path="rows.jsonl", tools=" ").tools.strip() == SourceConfig(path="rows.jsonl").tools == ""

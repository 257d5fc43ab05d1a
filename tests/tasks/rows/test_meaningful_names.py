"""Names of columns that carry meaning, as well-known data sets have them, and names that only look so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.loading import load_data

from configs.errors import DataError
from configs.schema import DataConfig
from tasks.rows.meaningful_names import carries_meaning, is_reasoning, read_as


@pytest.mark.parametrize(
    "name",
    [
        # OpenThoughts, s1K, medical-o1, and turns of other sets
        *("deepseek_reasoning", "thinking_trajectories", "deepseek_thinking_trajectory", "Complex_CoT", "cot", "COT"),
        *("rationale", "chain_of_thought", "thought", "think", "chosen_reasoning", "Reasoning_Content", "Thinking"),
        *("reasoning_details", "thoughts", "agentReasoning"),
    ],
)
def test_reasoning_is_known_by_the_words_of_its_name(name: str) -> None:
    assert is_reasoning(name) and carries_meaning(name, "column", "instruction")
    assert carries_meaning(name, "turn", "messages") and read_as(name) == "reasoning_content"


@pytest.mark.parametrize(
    "name",
    [
        *("reasoning_tokens", "thinking_time", "num_thoughts", "reasoning_effort", "enable_thinking", "thoughtful"),
        *("reason", "cotton", "apricot", "score", "think_score", "reasoning_language"),
    ],
)
def test_a_name_about_reasoning_does_not_hold_it(name: str) -> None:
    assert not is_reasoning(name)


@pytest.mark.parametrize(
    ("name", "place", "row_format"),
    [
        *(("tool_calls", "column", "messages"), ("tool_call", "turn", "messages")),
        *(("available_tools", "column", "sharegpt"), ("apis", "column", "instruction"), ("Tools", "column", "text")),
        *(("chat_template_kwargs", "column", "messages"), ("tool_choice", "column", "messages")),
        *(("system_message", "column", "text"), ("sys", "column", "text"), ("System", "column", "xlam")),
        *(("loss_mask", "column", "messages"), ("weights", "column", "messages"), ("trainable", "turn", "messages")),
        *(("train_detail", "turn", "messages"), ("loss", "turn", "messages"), ("Weight", "column", "messages")),
        # a row of OASST is a single turn
        *(("role", "column", "text"), ("parent_id", "column", "text")),
        *(("input.functions", "column", "preference_openai"), ("instances.reasoning", "column", "instruction")),
    ],
)
def test_names_that_carry_meaning(name: str, place: str, row_format: str) -> None:
    assert carries_meaning(name, place, row_format)


@pytest.mark.parametrize(
    ("name", "place", "row_format"),
    [
        *(("role", "column", "messages"), ("context", "column", "text"), ("label", "column", "text")),
        *(
            ("loss", "column", "messages"),
            ("instances.constraints", "column", "instruction"),
            ("tool_name", "turn", "x"),
        ),
    ],
)
def test_names_that_carry_none(name: str, place: str, row_format: str) -> None:
    assert not carries_meaning(name, place, row_format)


def load(path: Path, row: dict[str, Any], **source: Any) -> Any:
    path.write_text("".join(json.dumps(row | {"id": n}).replace("NUMBER", str(n)) + "\n" for n in range(12)))
    return load_data(DataConfig(sources=[{"path": str(path), **source}]))


def test_reasoning_under_another_name_stops_the_run_and_is_read_as_the_message_says(tmp_path: Path) -> None:
    row = {"problem": "Q NUMBER", "deepseek_reasoning": "Hm.", "deepseek_solution": "A"}
    columns = {"prompt": "problem", "completion": "deepseek_solution"}
    with pytest.raises(
        DataError, match=r"read it with data.sources\[0\].columns: {reasoning_content: deepseek_reasoning}"
    ):
        load(tmp_path / "rows.jsonl", row, columns=columns)
    data = load(tmp_path / "rows.jsonl", row, columns={**columns, "reasoning_content": "deepseek_reasoning"})
    assert json.loads(data.train.messages.iloc[0])[-1] == {
        "role": "assistant",
        "content": "A",
        "reasoning_content": "Hm.",
    }


def test_a_list_of_one_text_is_that_text(tmp_path: Path) -> None:
    """s1K has its reasoning so."""
    row = {"prompt": "Q NUMBER", "completion": "A", "thinking_trajectories": ["Hm."]}
    data = load(tmp_path / "rows.jsonl", row, columns={"reasoning_content": "thinking_trajectories"})
    assert json.loads(data.train.messages.iloc[0])[-1]["reasoning_content"] == "Hm."


def test_keys_within_a_column_are_named_too(tmp_path: Path) -> None:
    answer = [{"role": "assistant", "content": "A"}]
    asked = {"messages": [{"role": "user", "content": "Q NUMBER"}], "functions": [{"name": "f"}]}
    row = {"input": asked, "preferred_output": answer, "non_preferred_output": [{**answer[0], "content": "B"}]}
    with pytest.raises(DataError, match=r"does not read column input.functions \(12 of 12 rows\)"):
        load(tmp_path / "rows.jsonl", row)
    nested = {"instruction": "Q NUMBER", "instances": [{"input": "", "output": "A", "constraints": "none"}]}
    found = load(tmp_path / "nested.jsonl", nested).report.columns
    assert ("instances.constraints", 12, "unknown: not read") in [(use.name, use.rows, use.use) for use in found]


def test_a_judgement_of_kto_is_read_as_the_message_says(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "Q NUMBER"}, {"role": "assistant", "content": "A"}]
    row = {"messages": turns, "kto_tag": True}
    with pytest.raises(DataError, match=r"read it with data.sources\[0\].columns: {label: kto_tag}, or take it out"):
        load(tmp_path / "rows.jsonl", row)
    data = load(tmp_path / "rows.jsonl", row, columns={"label": "kto_tag"})
    assert set(data.train.kind) == {"kto"}

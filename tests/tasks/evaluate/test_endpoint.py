"""A model behind an endpoint answers the rows that local models answer; what it does not answer is counted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support.judge_server import Asked, JudgeServer, Raw, Said
from support.token_rows import Row, canonical

from configs.errors import ConfigError, DataError, HubError
from configs.objectives import Objective
from configs.schema import EvaluateConfig
from configs.schema.others import OtherModelConfig
from configs.wire import Evaluation
from tasks.evaluate.endpoint import ask_rows
from tasks.evaluate.score import chosen_rows
from tasks.evaluate.scores import join_parts
from tasks.evidence.table import read_table

SUM = {"type": "function", "function": {"name": "add", "description": "Add.", "parameters": {"type": "object"}}}


class Answers:
    """What an endpoint answered to rows: the evaluation, and the table behind it."""

    def __init__(
        self, folder: Path, server: JudgeServer, rows: list[Row], objective: Objective = "sft", **settings: Any
    ):
        path, output = folder / "test.parquet", folder / "output"
        output.mkdir(exist_ok=True)
        canonical(rows).fillna("").assign(dataset="held-out").to_parquet(path)
        config = EvaluateConfig.model_validate({"max_new_tokens": 9, **settings})
        other = OtherModelConfig(title="served", endpoint=server.address, endpoint_model="m-1", concurrency=1)
        ask_rows(config, other, objective, "a-key", path, output, folder / "cache")
        self.evaluation: Evaluation = join_parts(config.measures, [output], folder / "rows.parquet")
        self.table = read_table(folder / "rows.parquet").to_pandas().set_index("row_id")


def test_the_turns_go_as_they_are_and_the_answers_are_measured(tmp_path: Path) -> None:
    def script(asked: Asked) -> Said:
        question = asked.body["messages"][-1]["content"]
        return Said({"1+1": "2", "2+2": "<think>Hm.</think>4", "3+3": "7"}[question])

    with JudgeServer(script) as server:
        found = Answers(tmp_path, server, [("1+1", "2"), ("2+2", "4"), ("3+3", "6")])
    sent = server.asked[0]
    assert sent.headers["authorization"] == "Bearer a-key"
    assert {"1+1", "2+2", "3+3"} == {asked.body["messages"][0]["content"] for asked in server.asked}
    assert (sent.body["model"], sent.body["temperature"], sent.body["max_tokens"]) == ("m-1", 0.0, 9)
    assert "tools" not in sent.body
    scores = found.evaluation.scores
    assert scores.eval_loss is None and scores.generated_rows == 3
    assert scores.value("exact_match") == pytest.approx(2 / 3)
    assert list(found.table.reasoning) == ["", "Hm.", ""]
    # as the server counts them
    assert set(found.table.prompt_tokens) == {11} and set(found.table.answer_tokens) == {7}


def test_the_rows_are_those_that_local_models_answer(tmp_path: Path) -> None:
    rows: list[Row] = [(f"question {number}", "a") for number in range(40)]
    with JudgeServer(lambda asked: Said("a")) as server:
        found = Answers(tmp_path, server, rows, generate_rows=7)
    frame = canonical(rows).assign(prompt_length=1)
    assert set(found.table.index) == set(frame.row_id[chosen_rows(frame, 7)]) and len(found.table) == 7


def test_tools_and_earlier_calls_go_with_the_question_and_calls_come_back(tmp_path: Path) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
    last = {**call, "function": {"name": "add", "arguments": {"a": 3, "b": 4}}}
    turns = [
        {"role": "user", "content": "1+2, then 3+4"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "3", "tool_call_id": "c1"},
        {"role": "assistant", "content": "", "tool_calls": [last]},
    ]
    row: Row = {"kind": "messages", "messages": json.dumps(turns), "tools": json.dumps([SUM])}
    # the keys in another order, 4 as 4.0
    answer = {"tool_calls": [{"id": "x", "function": {"name": "add", "arguments": '{"b": 4.0, "a": 3}'}}]}
    with JudgeServer(lambda asked: Said(None, "tool_calls", message=answer)) as server:
        found = Answers(tmp_path, server, [row], measures=["tool_calls"])
    sent = server.asked[0].body
    assert sent["tools"] == [SUM]
    assert sent["messages"][1]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1, "b": 2}'}
    assert sent["messages"][2] == {"role": "tool", "content": "3", "tool_call_id": "c1"}
    assert found.evaluation.scores.value("tool_calls") == 1.0


def test_what_is_not_answered_is_counted_and_is_no_wrong_answer(tmp_path: Path) -> None:
    def script(asked: Asked) -> Said | Raw:
        question = asked.body["messages"][0]["content"]
        if question == "bad":
            return Raw(b"{}", 400)
        if question == "filtered":
            return Said(None, "content_filter")
        return Said("a") if question == "good" else Said("too lo", "length")

    rows: list[Row] = [("good", "a"), ("bad", "a"), ("filtered", "a"), ("long", "a")]
    with JudgeServer(script) as server:
        found = Answers(tmp_path, server, rows)
    measured = found.evaluation.scores.measured("exact_match")
    assert measured is not None and (measured.value, measured.rows) == (0.5, 2)
    assert {count.reason: count.rows for count in measured.not_counted} == {
        "the server's error 400": 1,
        "the server itself refused to answer": 1,
    }
    assert found.evaluation.scores.value("unfinished") == 0.5


def test_a_second_run_asks_nothing_that_was_answered(tmp_path: Path) -> None:
    with JudgeServer(lambda asked: Said("a")) as server:
        rows: list[Row] = [("one", "a"), ("two", "a")]
        first, second = (Answers(tmp_path, server, rows).table for _ in range(2))
        assert len(server.asked) == 2 and first.equals(second)


def test_a_server_that_answers_nothing_ends_the_run_with_its_reason(tmp_path: Path) -> None:
    with (
        JudgeServer(lambda asked: Raw(b"{}", 400)) as server,
        pytest.raises(HubError, match=r"served: http://127.0.0.1:\d+/v1 answered none of 2 rows \(2: the server's"),
    ):
        Answers(tmp_path, server, [("one", "a"), ("two", "a")])


def test_a_server_that_answers_no_completion_is_named_by_the_cause_and_not_by_what_followed(tmp_path: Path) -> None:
    rows: list[Row] = [(f"question {number}", "a") for number in range(40)]
    with (
        JudgeServer(lambda asked: Raw(b'{"choices": [{"message": {"content": NaN}}]}')) as server,
        pytest.raises(HubError, match=r"answered none of 40 rows \(1\d: an answer that is no chat completion\)"),
    ):
        Answers(tmp_path, server, rows)


def test_a_key_that_is_refused_names_the_setting_and_not_the_key(tmp_path: Path) -> None:
    with JudgeServer(lambda asked: Raw(b"{}", 401)) as server, pytest.raises(ConfigError) as caught:
        Answers(tmp_path, server, [("one", "a")])
    assert "set the Flyte secret endpoint/api_key, or $ENDPOINT_API_KEY" in str(caught.value)
    assert "evaluate.others: served.endpoint" in str(caught.value) and "a-key" not in str(caught.value)


def test_texts_cannot_be_asked(tmp_path: Path) -> None:
    with (
        JudgeServer(lambda asked: Said("a")) as server,
        pytest.raises(DataError, match="no held-out row has a prompt, so an endpoint cannot be asked"),
    ):
        Answers(tmp_path, server, [{"kind": "text", "completion": "plain"}], objective="cpt")


def test_a_preference_is_asked_once_by_the_name_that_its_wanted_half_has(tmp_path: Path) -> None:
    rows: list[Row] = [{"kind": "preference", "prompt": "q", "completion": "good", "rejected": "bad"}]
    with JudgeServer(lambda asked: Said("good")) as server:
        paired = Answers(tmp_path, server, rows, "dpo")
        labelled = Answers(tmp_path, server, rows, "kto")
    [row_id] = paired.table.index
    assert list(labelled.table.index) == [f"{row_id}#chosen"]
    assert paired.evaluation.scores.value("exact_match") == 1.0
    assert pd.isna(paired.table.loc[row_id].get("rejected"))

"""`data.tolerate` mends conversations that are refused otherwise, and counts each mended row."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from support.loading import LoadedData, load_data
from support.row_reading import faults

from configs.schema import DataConfig
from tasks.get_data.merge import summary_lines
from tasks.rows.invalid import InvalidRowsError

Turns = list[tuple[str, str]]
GOOD = [("user", "Q"), ("assistant", "A")]


def record(turns: Turns, form: str = "messages") -> dict[str, Any]:
    if form == "messages":
        return {"messages": [{"role": role, "content": text} for role, text in turns]}
    names = {"user": "human", "assistant": "gpt"}
    return {"conversations": [{"from": names.get(role, role), "value": text} for role, text in turns]}


def load(path: Path, rows: list[dict[str, Any]], **tolerate: bool) -> LoadedData:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_data(DataConfig(sources=[{"path": str(path)}], tolerate=tolerate, deduplicate="none"))


def row_of_line(data: LoadedData, line: int) -> dict[str, Any]:
    rows = [*data.train.to_dict("records"), *data.test.to_dict("records")]
    [found] = [row for row in rows if row["row_id"].endswith(f":{line}")]
    return {**found, "turns": [(turn["role"], turn["content"]) for turn in json.loads(found["messages"] or "[]")]}


CASES = [
    ("merge_consecutive_turns", [("user", "Q"), ("user", "R"), ("assistant", "A")], [("user", "Q\n\nR"), GOOD[1]]),
    (
        "merge_consecutive_turns",
        [("user", "Q"), ("assistant", "A"), ("assistant", "B")],
        [GOOD[0], ("assistant", "A\n\nB")],
    ),
    ("drop_leading_assistant_turn", [("assistant", "Hello"), *GOOD], GOOD),
    ("drop_leading_assistant_turn", [("system", "S"), ("assistant", "Hello"), *GOOD], [("system", "S"), *GOOD]),
    ("drop_trailing_user_turn", [*GOOD, ("user", "thanks")], GOOD),
]


@pytest.mark.parametrize("form", ["messages", "sharegpt"])
@pytest.mark.parametrize(("name", "turns", "expected"), CASES)
def test_a_broken_conversation_is_mended_only_by_its_setting(
    form: str, name: str, turns: Turns, expected: Turns, tmp_path: Path
) -> None:
    rows = [record([("user", f"Q {n}"), GOOD[1]], form) for n in range(12)] + [record(turns, form)]
    path = tmp_path / "rows.jsonl"
    others = {case[0]: True for case in CASES if case[0] != name}
    for settings in ({}, others):
        with pytest.raises(InvalidRowsError, match="row 13"):
            load(path, rows, **settings)
    data = load(path, rows, **{name: True})
    assert row_of_line(data, 13)["turns"] == expected
    [count] = data.report.checks
    assert (count.check, count.policy, count.rows, count.first_rows) == (name, "mend", 1, ["rows.jsonl:13"])
    assert f"mended: 1 rows by data.tolerate.{name}, such as rows.jsonl:13" in summary_lines(data.report)
    assert data.report.sources[0].kept == 13


def test_a_folded_system_turn_begins_the_first_user_turn(tmp_path: Path) -> None:
    rows = [{**record([("user", f"Q {n}"), GOOD[1]]), "system": "S" if n else ""} for n in range(12)]
    whole = load(tmp_path / "rows.jsonl", rows)
    assert row_of_line(whole, 2)["turns"] == [("system", "S"), ("user", "Q 1"), GOOD[1]]
    assert whole.report.checks == []
    data = load(tmp_path / "rows.jsonl", rows, fold_system_turn=True)
    folded = row_of_line(data, 2)
    assert (folded["turns"], folded["prompt"]) == ([("user", "S\n\nQ 1"), GOOD[1]], "S\n\nQ 1")
    assert row_of_line(data, 1)["turns"] == [("user", "Q 0"), GOOD[1]]
    [count] = data.report.checks
    assert (count.check, count.rows) == ("fold_system_turn", 11)


def test_a_preference_is_mended_in_both_of_its_conversations(tmp_path: Path) -> None:
    def conversation(n: int, answer: str) -> list[dict[str, str]]:
        turns = [("assistant", "Hello"), ("user", f"Q {n}"), ("user", "R"), ("assistant", answer)]
        return [{"role": role, "content": text} for role, text in turns]

    rows = [{"chosen": conversation(n, "A"), "rejected": conversation(n, "B")} for n in range(12)]
    data = load(tmp_path / "rows.jsonl", rows, merge_consecutive_turns=True, drop_leading_assistant_turn=True)
    row = row_of_line(data, 1)
    assert (row["turns"], row["completion"], row["rejected"]) == ([("user", "Q 0\n\nR")], "A", "B")
    assert [(count.check, count.rows) for count in data.report.checks] == [
        ("drop_leading_assistant_turn", 12),
        ("merge_consecutive_turns", 12),
    ]


def test_two_answers_of_which_one_is_trained_are_not_merged(tmp_path: Path) -> None:
    rows = [record([("user", f"Q {n}"), GOOD[1]]) for n in range(12)]
    answers = [{"role": "assistant", "content": "A", "weight": weight} for weight in (0, 1)]
    rows.append({"messages": [{"role": "user", "content": "Q"}, *answers]})
    with pytest.raises(InvalidRowsError, match="turns 2 and 3 are both from the assistant"):
        load(tmp_path / "rows.jsonl", rows, merge_consecutive_turns=True)


def test_a_turn_that_cannot_be_read_is_still_named(tmp_path: Path) -> None:
    rows = [record([("user", f"Q {n}"), GOOD[1]]) for n in range(12)] + [record([("robot", "Q"), GOOD[1]])]
    with pytest.raises(InvalidRowsError, match="row 13, column messages: turn 1 has none of the roles"):
        load(tmp_path / "rows.jsonl", rows, merge_consecutive_turns=True)


@pytest.mark.parametrize(
    ("turns", "ending"),
    [
        (
            [("user", "Q"), ("user", "R"), ("assistant", "A")],
            "both from the user; data.tolerate.merge_consecutive_turns joins such turns",
        ),
        (
            [("assistant", "Hello"), *GOOD],
            "with no user turn before it; data.tolerate.drop_leading_assistant_turn leaves such a turn out",
        ),
        (
            [*GOOD, ("user", "thanks")],
            "does not end with an assistant turn; data.tolerate.drop_trailing_user_turn leaves such a turn out",
        ),
        # no setting mends these
        ([("user", "Q")], "does not end with an assistant turn"),
        ([("assistant", "A")], "with no user turn before it"),
        ([*GOOD, ("system", "S")], "turn 3 is a system turn; only the first may be"),
    ],
)
def test_a_fault_names_the_setting_that_mends_it(turns: Turns, ending: str) -> None:
    [(_, reason)] = faults(record(turns))
    assert reason.endswith(ending)


def test_turns_of_which_one_is_trained_cannot_be_joined() -> None:
    turns = [{"role": "assistant", "content": text, "weight": n} for n, text in enumerate("AB")]
    [(_, reason)] = faults({"messages": [{"role": "user", "content": "Q"}, *turns]})
    expected = "turns 2 and 3 are both from the assistant, and only one of them is trained, so they cannot be joined"
    assert reason == expected


def test_no_setting_is_named_where_none_applies() -> None:
    user = {"role": "user", "content": "Q"}
    openai = {"input": {"messages": [user, user]}, "preferred_output": "A", "non_preferred_output": "B"}
    assert faults(openai) == [("input", "messages: turns 1 and 2 are both from the user")]

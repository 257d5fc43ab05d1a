"""`make answers`: the answers of a run's models in the terminal, wrong ones first, with differences marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from support.rated_models import rated
from support.run_folders import run_folder

from tasks.gate.compare import Rated
from workflows.answers import main

EXPECTED = ["SELECT a", "SELECT b", "SELECT c", "SELECT d"]


def answering(answers: Sequence[str | None], right: Sequence[float], **columns: Sequence[str]) -> Rated:
    """Return a model with answers to as many rows, and answers to two unsafe prompts."""
    own = rated({"exact_match": right}, sets={"unsafe prompts": {"refusal_rate": [1.0, 0.0]}})
    table = own.table
    for name, values in {"answer": answers, "expected": EXPECTED, **columns}.items():
        place = table.column_names.index(name)
        whole = [*values, *(["I cannot help.", "First,"] if name == "answer" else ["", ""])]
        table = table.set_column(place, table.schema.field(place), [whole])
    return replace(own, table=table)


def folder(tmp_path: Path, tuned: Rated | None = None, **sections: Any) -> Path:
    base = answering(["SELECT a", "none", "", "none"], [1.0, 0.0, 0.0, 0.0])
    tuned = tuned or answering(["SELECT x", "SELECT b", "SELECT c", "SELECT"], [0.0, 1.0, 1.0, 0.0])
    return run_folder(tmp_path / "run", {"base": base, "tuned": tuned}, **sections)


def answers(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_wrong_answers_come_first_with_what_differs(tmp_path: Path) -> None:
    found = answers(folder(tmp_path), "--rows", 3)
    assert found.exit_code == 0, found.output
    assert found.output.splitlines()[:8] == [
        "4 answers to held-out rows, before: base, after: tuned.",
        "By exact match: 2 right, 2 wrong, 3 changed. 3 are shown, wrong ones first:",
        "[-what the expected answer has and this one lacks-] {+what it has instead, or too much+}",
        "rows.jsonl:1 (wrong)",
        "  prompt:   a question",
        "  expected: SELECT a",
        "  before:   SELECT a",
        "  after:    SELECT [-a-]{+x+}",
    ]
    assert [line for line in found.output.splitlines() if line.startswith("rows.jsonl")] == [
        "rows.jsonl:1 (wrong)",
        "rows.jsonl:4 (wrong)",
        "rows.jsonl:2 (right)",
    ]


@pytest.mark.parametrize(
    ("show", "rows", "words"),
    [
        ("wrong", ["1 (wrong)", "4 (wrong)"], "2 of the 2 that are wrong are shown:"),
        ("right", ["2 (right)", "3 (right)"], "2 of the 2 that are right are shown:"),
        ("changed", ["1 (wrong)", "2 (right)", "3 (right)"], "3 of the 3 that are changed are shown:"),
    ],
)
def test_some_kinds_of_answers_alone_are_shown(show: str, rows: list[str], words: str, tmp_path: Path) -> None:
    output = answers(folder(tmp_path), "--show", show).output
    assert [line.removeprefix("rows.jsonl:") for line in output.splitlines() if line.startswith("rows.jsonl")] == rows
    assert words in output


def test_a_kind_that_no_answer_is_of_is_said(tmp_path: Path) -> None:
    found = answers(folder(tmp_path, answering(EXPECTED, [1.0] * 4)), "--show", "wrong")
    assert found.exit_code == 0
    assert found.output.splitlines()[-1] == "By exact match: 4 right, 0 wrong, 3 changed. None is wrong."


def test_what_is_right_is_said_by_the_measure_of_the_config(tmp_path: Path) -> None:
    def model(exact: list[float], normalized: list[float]) -> Rated:
        return rated({"exact_match": exact, "normalized_match": normalized})

    run = run_folder(
        tmp_path / "run",
        {"base": model([0.0, 0.0], [0.0, 0.0]), "tuned": model([0.0, 0.0], [1.0, 0.0])},
        evaluate={"measures": ["normalized_match"]},
    )
    assert "By normalized match: 1 right, 1 wrong, 1 changed." in answers(run).output
    # without a list, what was chosen for the expected answers says it, as in the report
    other = run_folder(
        tmp_path / "other", {"base": model([0.0, 0.0], [0.0, 0.0]), "tuned": model([0.0, 0.0], [1.0, 1.0])}
    )
    assert "By normalized match: 2 right, 0 wrong" in answers(other).output


def test_another_model_and_set_can_be_asked_for(tmp_path: Path) -> None:
    run = folder(tmp_path)
    output = answers(run, "--model", "base", "--before", "tuned").output
    assert "before: tuned, after: base." in output and "1 right, 3 wrong" in output
    output = answers(run, "--set", "unsafe prompts").output
    assert "2 answers to unsafe prompts rows" in output and "  after:    I cannot help.\n" in output
    for arguments, words in (
        (("--model", "4bit\x1b"), "--model=4bit\\x1b is no model of this run; choose base or tuned"),
        (("--set", "news"), "--set=news is no set of this run; choose held-out or unsafe prompts"),
    ):
        found = answers(run, *arguments)
        assert found.exit_code == 2 and words in found.output


def test_a_reward_model_has_no_answers(tmp_path: Path) -> None:
    found = answers(folder(tmp_path, answering([None] * 4, [1.0] * 4)))
    assert found.exit_code == 2
    assert "has no answers of both base and tuned on held-out" in found.output
    assert len(found.output.strip().splitlines()) <= 3


def test_hostile_texts_do_not_reach_the_terminal(tmp_path: Path) -> None:
    bad = "\x1b]0;owned\x07\x1b[2J\u202eevil\rline\nrows.jsonl:9 (right)"
    columns = {name: [bad, *EXPECTED[1:]] for name in ("prompt", "row_id", "expected")}
    run = folder(tmp_path, answering([bad, *EXPECTED[1:]], [0.0] * 4))
    rows = pq.read_table(run / "rows.parquet")
    for name, values in columns.items():
        place = rows.column_names.index(name)
        rows = rows.set_column(place, name, [[*values, "a", "b"]])
    pq.write_table(rows, run / "rows.parquet")
    found = answers(run)
    assert found.exit_code == 0, found.output
    assert not any(sign in found.output for sign in "\x1b\x07\u202e\r")
    assert not any(line.startswith("rows.jsonl:9") for line in found.output.splitlines())


def test_a_folder_without_rows_is_one_error(tmp_path: Path) -> None:
    run = folder(tmp_path)
    (run / "rows.parquet").unlink()
    found = answers(run)
    assert found.exit_code == 2 and "rows.parquet cannot be read" in found.output
    assert answers(tmp_path / "none").exit_code == 2
    assert answers(run, "--rows", 0).exit_code == 2

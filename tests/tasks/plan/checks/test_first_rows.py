"""The plan says of the first rows what the data stage will say of them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT
from support.hub_server import HubServer
from support.loading import write_data

from configs.errors import DataError
from configs.schema import DataConfig
from tasks.plan.checks.first_rows import FirstRows, check_kinds, check_validity, read_first_rows
from tasks.plan.resolve.data import resolve_data
from tasks.rows.invalid import InvalidRowsError

PAIRS = [{"prompt": f"What is {n} plus {n}?", "completion": str(2 * n)} for n in range(30)]
PREFERENCES = [{"prompt": f"What is {n}?", "chosen": f"{n} it is", "rejected": "no"} for n in range(30)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def first_rows(path: Path, **settings: Any) -> FirstRows:
    return read_first_rows(DataConfig(sources=[{"path": str(path), **settings}]), "sources", 0, "", None)


def test_good_rows_are_counted_and_measured(tmp_path: Path) -> None:
    found = first_rows(write(tmp_path / "rows.jsonl", PAIRS))
    assert (found.row_format, found.num_rows, found.kinds) == ("prompt_completion", 20, frozenset({"pair"}))
    # questions of 17 and 19 characters, answers of 1 or 2, and two line breaks between the parts of a row
    assert found.mean_characters == ((17 + 1) * 5 + (17 + 2) * 5 + (19 + 2) * 10) / 20 + 2
    assert found.rows == 30
    assert check_validity(found, 0) == ""


def test_the_number_of_rows_of_a_long_file_is_estimated(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n:06d} of all", "completion": f"answer {n:06d}"} for n in range(5000)]
    assert first_rows(write(tmp_path / "rows.jsonl", rows)).rows == pytest.approx(5000, rel=0.001)


def test_embedded_rows_need_no_file() -> None:
    found = read_first_rows(DataConfig(sources=[{"path": "embedded:english-to-sql:200"}]), "sources", 0, "", None)
    assert (found.rows, found.num_rows, found.num_invalid) == (200.0, 20, 0)


@pytest.mark.parametrize("bad", [{"prompt": "a", "completion": ""}, {"prompt": "a"}, '{"prompt": ', '["secret"]'])
def test_an_invalid_row_is_refused_as_the_data_stage_does(bad: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [*PAIRS[:4], bad, *PAIRS[4:]])
    config = DataConfig(sources=[{"path": str(path)}])
    with pytest.raises(InvalidRowsError) as plan_error:
        check_validity(first_rows(path), 0)
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidRowsError) as stage_error:
        write_data(config, [], resolve_data(config, None).shards, None, tmp_path / "out")
    assert str(plan_error.value).splitlines()[0] == str(stage_error.value).splitlines()[0]
    assert str(plan_error.value).startswith("rows.jsonl row 5, column ")
    assert "1 invalid row among the first 20 of rows.jsonl, data.max_invalid_rows=0 tolerated" in str(plan_error.value)
    # a tolerated row gives a warning, which names it
    assert check_validity(first_rows(path), 1).startswith("1 of the first 20 rows: rows.jsonl row 5, ")


def test_rows_beyond_the_first_twenty_are_left_to_the_data_stage(tmp_path: Path) -> None:
    bad = {"prompt": "a", "completion": ""}
    assert first_rows(write(tmp_path / "rows.jsonl", [*PAIRS[:20], bad])).num_invalid == 0
    assert first_rows(write(tmp_path / "rows.jsonl", [*PAIRS[:19], bad])).num_invalid == 1


def test_content_is_never_in_a_message(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"prompt": "hunter2", "completion": "{{password}}"}, *PAIRS])
    with pytest.raises(InvalidRowsError) as caught:
        check_validity(first_rows(path), 0)
    assert "hunter2" not in str(caught.value) and "password" not in str(caught.value)
    assert "holds a template placeholder" in str(caught.value)
    warned = DataConfig(sources=[{"path": str(path)}], checks={"placeholder": "warn"})
    found = read_first_rows(warned, "sources", 0, "", None)
    assert found.num_invalid == 0 and "hunter2" not in check_validity(found, 0)
    assert "row 1" in check_validity(found, 0)


def test_a_wrong_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", PAIRS)
    with pytest.raises(DataError, match=r"columns.prompt=question: rows.jsonl has no such column; it has prompt, comp"):
        first_rows(path, columns={"prompt": "question"})
    with pytest.raises(
        DataError, match=r"has the columns a, b, but needs .*\nsay with `columns` which of yours hold them"
    ):
        first_rows(write(tmp_path / "other.jsonl", [{"a": "1", "b": "2"}] * 20))


@pytest.mark.parametrize(
    ("rows", "objective", "kind"),
    [(PAIRS, "dpo", "pair"), (PREFERENCES, "sft", "preference"), (PAIRS, "cpt", "pair"), (PAIRS, "kto", "pair")],
)
def test_rows_of_another_objective_are_refused(rows: list[Any], objective: Any, kind: str, tmp_path: Path) -> None:
    found = first_rows(write(tmp_path / "rows.jsonl", rows))
    expected = rf"the first 20 rows of rows.jsonl are of kind {kind}, and train.objective={objective} needs "
    with pytest.raises(DataError, match=expected):
        check_kinds([found], objective)


def test_rows_that_fit_their_objective_pass(tmp_path: Path) -> None:
    pairs, preferences = (
        first_rows(write(tmp_path / f"{name}.jsonl", rows)) for name, rows in (("a", PAIRS), ("b", PREFERENCES))
    )
    assert check_kinds([preferences], "dpo") == "dpo takes preference rows"
    assert check_kinds([pairs, preferences], "grpo") == "grpo takes pair and preference rows"


def test_the_first_rows_of_a_hub_data_set_are_streamed(tmp_path: Path) -> None:
    script = """
from configs.errors import FineTuneError
from configs.schema import DataConfig
from tasks.plan.resolve.data import resolve_data
from tasks.plan.checks.first_rows import read_first_rows
for split in ("train", "none"):
    config = DataConfig(sources=[{"hub": "owner/lines", "split": split}])
    try:
        found = read_first_rows(config, "sources", 0, resolve_data(config, None).shards[0].revision, None)
        print(found.num_rows, found.row_format, found.rows)
    except FineTuneError as error:
        print(type(error).__name__, error)
"""
    with HubServer(tokens={}) as server:
        lines = "".join(json.dumps(row) + "\n" for row in PAIRS * 10).encode()
        server.add_repo("owner/lines", {"train.jsonl": lines}, "dataset")
        settings = {"HF_ENDPOINT": server.endpoint, "HF_HOME": str(tmp_path / "home"), "PYTHONPATH": str(ROOT)}
        hidden = ("HF_TOKEN", "HF_HUB_OFFLINE")
        environment = {key: value for key, value in os.environ.items() if key not in hidden} | settings
        run = subprocess.run(
            [sys.executable, "-c", script], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=100
        )
    first, second = run.stdout.splitlines() or [run.stderr, ""]
    assert first == "20 prompt_completion None"
    assert second.startswith("DataError data set owner/lines: ") and second.endswith("correct name or split")

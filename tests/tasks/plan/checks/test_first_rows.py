"""What the plan says of the first rows is what the data stage says of all of them."""

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
from tasks.get_data.leaving import InvalidRowsError
from tasks.plan.checks.first_rows import FirstRows, look_at, refuse_invalid, refuse_wrong_kinds
from tasks.plan.resolve.data import resolve_data

PAIRS = [{"prompt": f"What is {n} plus {n}?", "completion": str(2 * n)} for n in range(30)]
PREFERENCES = [{"prompt": f"What is {n}?", "chosen": f"{n} it is", "rejected": "no"} for n in range(30)]


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def look(path: Path, **settings: Any) -> FirstRows:
    return look_at(DataConfig(sources=[{"path": str(path), **settings}]), "sources", 0, "", None)


def test_good_rows_are_counted_and_measured(tmp_path: Path) -> None:
    found = look(write(tmp_path / "rows.jsonl", PAIRS))
    assert (found.row_format, found.num_rows, found.kinds) == ("prompt_completion", 20, frozenset({"pair"}))
    # questions of 17 and 19 characters, answers of 1 or 2, and two line breaks between the parts of each
    assert found.mean_characters == ((17 + 1) * 5 + (17 + 2) * 5 + (19 + 2) * 10) / 20 + 2
    assert found.rows == 30
    assert refuse_invalid(found, 0) == ""


def test_the_number_of_rows_of_a_long_file_is_estimated(tmp_path: Path) -> None:
    rows = [{"prompt": f"question {n:06d} of all", "completion": f"answer {n:06d}"} for n in range(5000)]
    assert look(write(tmp_path / "rows.jsonl", rows)).rows == pytest.approx(5000, rel=0.001)


def test_embedded_rows_need_no_file() -> None:
    found = look_at(DataConfig(sources=[{"path": "embedded:english-to-sql:200"}]), "sources", 0, "", None)
    assert (found.rows, found.num_rows, found.num_invalid) == (200.0, 20, 0)


@pytest.mark.parametrize("bad", [{"prompt": "a", "completion": ""}, {"prompt": "a"}, '{"prompt": ', '["secret"]'])
def test_an_invalid_row_is_refused_as_the_data_stage_does(bad: Any, tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [*PAIRS[:4], bad, *PAIRS[4:]])
    config = DataConfig(sources=[{"path": str(path)}])
    with pytest.raises(InvalidRowsError) as early:
        refuse_invalid(look(path), 0)
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidRowsError) as late:
        write_data(config, [], resolve_data(config, None).shards, None, tmp_path / "out")
    assert str(early.value).splitlines()[0] == str(late.value).splitlines()[0]
    assert str(early.value).startswith("rows.jsonl row 5, column ")
    assert "1 invalid row among the first 20 of rows.jsonl, data.max_invalid_rows=0 tolerated" in str(early.value)
    # what is tolerated is a warning, and names the same row
    assert refuse_invalid(look(path), 1).startswith("1 of the first 20 rows: rows.jsonl row 5, ")


def test_rows_beyond_the_first_twenty_are_left_to_the_data_stage(tmp_path: Path) -> None:
    bad = {"prompt": "a", "completion": ""}
    assert look(write(tmp_path / "rows.jsonl", [*PAIRS[:20], bad])).num_invalid == 0
    assert look(write(tmp_path / "rows.jsonl", [*PAIRS[:19], bad])).num_invalid == 1


def test_content_is_never_in_a_message(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", [{"prompt": "hunter2", "completion": "{{password}}"}, *PAIRS])
    with pytest.raises(InvalidRowsError) as caught:
        refuse_invalid(look(path), 0)
    assert "hunter2" not in str(caught.value) and "password" not in str(caught.value)
    assert "holds a template placeholder" in str(caught.value)
    warned = DataConfig(sources=[{"path": str(path)}], checks={"placeholder": "warn"})
    found = look_at(warned, "sources", 0, "", None)
    assert found.num_invalid == 0 and "hunter2" not in refuse_invalid(found, 0)
    assert "row 1" in refuse_invalid(found, 0)


def test_a_wrong_column_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", PAIRS)
    with pytest.raises(DataError, match=r"columns.prompt=question: rows.jsonl has no such column; it has prompt, comp"):
        look(path, columns={"prompt": "question"})
    with pytest.raises(DataError, match=r"has the columns a, b, where .* is wanted\nname yours"):
        look(write(tmp_path / "other.jsonl", [{"a": "1", "b": "2"}] * 20))


@pytest.mark.parametrize(
    ("rows", "objective", "kind"),
    [(PAIRS, "dpo", "pair"), (PREFERENCES, "sft", "preference"), (PAIRS, "cpt", "pair"), (PAIRS, "kto", "pair")],
)
def test_rows_of_another_objective_are_refused(rows: list[Any], objective: Any, kind: str, tmp_path: Path) -> None:
    found = look(write(tmp_path / "rows.jsonl", rows))
    expected = rf"the first 20 rows of rows.jsonl are of kind {kind}, and train.objective={objective} needs "
    with pytest.raises(DataError, match=expected):
        refuse_wrong_kinds([found], objective)


def test_rows_that_fit_their_objective_pass(tmp_path: Path) -> None:
    pairs, preferences = (
        look(write(tmp_path / f"{name}.jsonl", rows)) for name, rows in (("a", PAIRS), ("b", PREFERENCES))
    )
    assert refuse_wrong_kinds([preferences], "dpo") == "dpo takes preference rows"
    assert refuse_wrong_kinds([pairs, preferences], "grpo") == "grpo takes pair and preference rows"


def test_the_first_rows_of_a_hub_data_set_are_streamed(tmp_path: Path) -> None:
    script = """
from configs.errors import FineTuneError
from configs.schema import DataConfig
from tasks.plan.resolve.data import resolve_data
from tasks.plan.checks.first_rows import look_at
for split in ("train", "none"):
    config = DataConfig(sources=[{"hub": "owner/lines", "split": split}])
    try:
        found = look_at(config, "sources", 0, resolve_data(config, None).shards[0].revision, None)
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

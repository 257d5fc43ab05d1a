"""`make seeds`: runs of one config with several seeds, as text. Values are worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from support.rated_models import loss, rated
from support.run_folders import run_folder

from workflows.seeds import main

N = 40


def trained(tmp_path: Path, name: str, seed: int, nats: float, right: int = 20, prompts: int = N, **train: Any) -> Path:
    """Write a run of which the loss of all rows alike falls from 2 to `nats`, and `right` answers are right."""
    models = {
        "base": rated({"eval_loss": loss([2.0] * N, [10] * N), "exact_match": [0.0] * N},
                      sets={"unsafe prompts": {"refusal_rate": [1.0] * prompts}}),
        "tuned": rated({"eval_loss": loss([nats] * N, [10] * N), "exact_match": [1.0] * right + [0.0] * (N - right)},
                       sets={"unsafe prompts": {"refusal_rate": [1.0] * prompts}}),
    }  # fmt: skip
    return run_folder(tmp_path / name, models, train={"seed": seed, **train})


def seeds(*runs: Path) -> Result:
    return CliRunner().invoke(main, [str(run) for run in runs])


def test_three_seeds_have_values_a_spread_and_an_interval(tmp_path: Path) -> None:
    runs = [
        trained(tmp_path, name, seed, nats) for seed, (name, nats) in enumerate({"a": 1.5, "b": 1.4, "c": 1.6}.items())
    ]
    found = seeds(*runs)
    assert found.exit_code == 0, found.output
    lines = found.output.splitlines()
    assert lines[:4] == [
        "3 runs of the same settings, on the same 40 held-out rows:",
        f"  1  {runs[0]}  train.seed=0",
        f"  2  {runs[1]}  train.seed=1",
        f"  3  {runs[2]}  train.seed=2",
    ]
    # the gains are 0.5, 0.6 and 0.4: mean 0.5, SD 0.1; t of 2 degrees of freedom 4.303: 4.303 * 0.1 / 3 ** 0.5 = 0.2484
    assert " ".join(lines[4:6]).replace("   ", " ") == (
        "Held-out loss over 3 seeds: 1.4000 to 1.6000, mean 1.5000, SD 0.1. The gain over base is +0.5 (+0.2516 to "
        "+0.7484), and 3 of 3 seeds gain. That is more than the noise of seeds and rows."
    )
    table = [" ".join(line.split()) for line in lines[6:]]
    assert table[0] == "measure run 1 run 2 run 3 mean SD gain over base (95 % interval) rows"
    assert table[1] == "loss 1.5000 1.4000 1.6000 1.5000 0.1 +0.5 (+0.2516 to +0.7484) 40"
    # 20 of 40 right in every run
    assert table[2].startswith("exact match 50.0% 50.0% 50.0% 50.0% 0.0 points +50.0 points")
    assert table[3].startswith("refused on unsafe prompts 100.0% 100.0% 100.0% 100.0% 0.0 points +0.0 points")
    assert lines[-1] == "Intervals are 95 %, for other seeds and other rows together (docs/evidence.md)."
    assert all(len(line) <= 120 for line in lines)


def test_a_gain_that_a_seed_undoes_is_no_gain(tmp_path: Path) -> None:
    runs = [trained(tmp_path, f"r{seed}", seed, nats) for seed, nats in enumerate((1.5, 2.1))]
    output = seeds(*runs).output
    assert "1 of 2 seeds gain" in output and "Other seeds or other rows may as well show no" in output


def test_settings_that_differ_besides_are_said(tmp_path: Path) -> None:
    runs = [
        trained(tmp_path, "a", 0, 1.5, learning_rate=0.001),
        trained(tmp_path, "b", 1, 1.4, learning_rate=0.002, checkpoint={"keep": 3}),
    ]
    output = seeds(*runs).output
    assert output.startswith("2 runs of settings that differ by more than the seed, on the same 40 held-out rows:")
    assert "  warning: train.learning_rate differs too: 0.001, 0.002\n" in output
    # how often a run was saved changes nothing
    assert output.count("warning:") == 1 and "and not of the seeds alone" in output
    record = json.loads((runs[1] / "run.json").read_text())
    (runs[1] / "run.json").write_text(json.dumps({**record, "data": ["another\x1b[31m"]}))
    output = seeds(*runs).output
    assert "revision.data differs too" in output and "\x1b" not in output


def test_a_measure_of_other_rows_is_left_out_and_said(tmp_path: Path) -> None:
    runs = [trained(tmp_path, "a", 0, 1.5), trained(tmp_path, "b", 1, 1.4, prompts=30)]
    output = seeds(*runs).output
    assert "not compared: refused on unsafe prompts: run 2 has other rows" in output
    assert "exact match" in output


def test_many_runs_are_shown_by_their_ends(tmp_path: Path) -> None:
    runs = [trained(tmp_path, f"r{seed}", seed, 1.4 + seed / 100) for seed in range(5)]
    assert all(len(line) <= 120 for line in seeds(*runs[:4]).output.splitlines())
    lines = seeds(*runs).output.splitlines()
    header = next(line for line in lines if line.startswith("measure"))
    assert header.split()[:4] == ["measure", "lowest", "highest", "mean"]
    assert all(len(line) <= 120 for line in lines)


def test_runs_that_tell_nothing_of_seeds_are_refused(tmp_path: Path) -> None:
    first, same = trained(tmp_path, "a", 0, 1.5), trained(tmp_path, "b", 0, 1.4)
    other = trained(tmp_path, "c", 1, 1.4)
    assert "1 run shows no spread" in refused(first)
    message = refused(first, other, same)
    assert f"{first} and {same} have the same seeds" in message and "train.seed=0" in message
    rows = pq.read_table(other / "rows.parquet")
    place = rows.column_names.index("prompt")
    changed = ["another question", *rows["prompt"].to_pylist()[1:]]
    pq.write_table(rows.set_column(place, "prompt", pa.array(changed)), other / "rows.parquet")
    message = refused(first, other)
    # the changed row, and the one that it was
    assert f"{other} has other held-out rows than {first}: 2 of 41 are not in both" in message
    assert "another question" not in message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("rows.parquet", b"no table", "is not a Parquet file"),
        ("rows.parquet", None, "cannot be read"),
        ("run.json", b"{", "is not JSON"),
        ("run.json", b"[]", "holds no config"),
        ("metrics.json", b"{}", "holds no verdict"),
    ],
)
def test_a_damaged_folder_is_one_error(name: str, content: bytes | None, words: str, tmp_path: Path) -> None:
    runs = [trained(tmp_path, "a", 0, 1.5), trained(tmp_path, "b", 1, 1.4)]
    (runs[1] / name).unlink()
    if content is not None:
        (runs[1] / name).write_bytes(content)
    message = refused(*runs)
    assert words in message and name in message


def test_a_table_of_something_else_is_refused(tmp_path: Path) -> None:
    runs = [trained(tmp_path, "a", 0, 1.5), trained(tmp_path, "b", 1, 1.4)]
    pq.write_table(pa.table({"dataset": ["held-out"], "row_id": [1]}), runs[1] / "rows.parquet")
    assert "is not the table of rows of a run" in refused(*runs)


def refused(*runs: Path) -> str:
    found = seeds(*runs)
    assert found.exit_code == 2 and len(found.output.strip().splitlines()) <= 3, found.output
    return found.output

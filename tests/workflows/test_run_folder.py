"""One folder, one run: what a laptop's run leaves, what the next one does with it, and what the log says of steps."""

from __future__ import annotations

import json
import subprocess
from hashlib import sha256
from pathlib import Path
from typing import Any

from conftest import PyFlyte, error_lines


def run(pyflyte: PyFlyte, rows: Path, workflow: str = "prepare_data", **settings: Any) -> subprocess.CompletedProcess:
    config = {"name": "x", "data": {"sources": [{"path": str(rows)}]}, **settings}
    config["output_directory"] = str(pyflyte.home / "outputs")
    path = pyflyte.home / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    file = "plan" if workflow == "plan" else workflow
    return pyflyte("run", f"workflows/{file}.py", workflow, "--config", str(path))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith(".fine-tune"))


def test_a_folder_is_of_one_run_and_records_it(pyflyte: PyFlyte, rows_file: Path) -> None:
    outputs = pyflyte.home / "outputs"
    first = run(pyflyte, rows_file)
    assert first.returncode == 0, first.stderr
    assert "step get_data runs (first time)" in first.stdout
    assert names(outputs) == ["x"]
    assert names(outputs / "x") == ["data.html", "run.json", "test.jsonl", "train.jsonl"]
    record = json.loads((outputs / "x" / "run.json").read_text())
    assert (record["name"], record["workflow"], record["status"]) == ("x", "prepare_data", "finished")
    assert record["config"]["data"]["test_fraction"] == 0.1
    assert record["steps"] == {"get_data": "ran (first time)"}
    assert record["seeds"] == {"data.seed": 0, "train.seed": 0}
    assert record["sha256"]["train.jsonl"] == sha256((outputs / "x" / "train.jsonl").read_bytes()).hexdigest()
    assert record["data"] == [f"rows.jsonl: {sha256(rows_file.read_bytes()).hexdigest()}"]
    assert record["started"] <= record["ended"]

    # the same config: the same folder, silently
    second = run(pyflyte, rows_file)
    assert second.returncode == 0, second.stderr
    assert "step get_data comes from the cache" in second.stdout and "output:" not in second.stdout
    assert second.stdout.splitlines()[-3:] == first.stdout.splitlines()[-3:]
    assert names(outputs) == ["x"]
    assert json.loads((outputs / "x" / "run.json").read_text())["steps"] == {"get_data": "from the cache"}

    # another config: another folder, which the last lines name
    data = {"sources": [{"path": str(rows_file)}], "test_fraction": 0.2}
    third = run(pyflyte, rows_file, data=data)
    assert third.returncode == 0, third.stderr
    assert "step get_data runs (changed since the last run: config.test_fraction)" in third.stdout
    note = f"output: {outputs}/x holds a run of another config: this run's folder is {outputs}/x-2"
    assert f"{note} (output_exists: number)" in third.stdout
    assert f"rows: {outputs}/x-2/{{train.jsonl,test.jsonl}}" in third.stdout
    assert f"report: {outputs}/x-2/data.html" in third.stdout
    assert json.loads((outputs / "x" / "run.json").read_text())["config"]["data"]["test_fraction"] == 0.1


def test_a_run_may_be_told_to_stop_before_anything_runs_and_a_plan_has_its_own_file(
    pyflyte: PyFlyte, rows_file: Path
) -> None:
    outputs = pyflyte.home / "outputs"
    assert run(pyflyte, rows_file).returncode == 0
    before = {path: path.read_bytes() for path in (outputs / "x").iterdir()}
    data = {"sources": [{"path": str(rows_file)}], "seed": 1}
    refused = run(pyflyte, rows_file, data=data, output_exists="stop")
    assert refused.returncode == 1
    assert error_lines(refused) == [
        f"Error: output_exists=stop: {outputs}/x holds a run of another config; name another with `name`, or set "
        "output_exists to number or replace"
    ]
    assert "step" not in refused.stdout
    planned = run(pyflyte, rows_file, workflow="plan", model={"name": "embedded:english-to-sql"})
    assert planned.returncode == 0, planned.stderr
    assert planned.stdout.rstrip().splitlines()[-1] == f"plan.html: {outputs}/x.plan.html"
    assert names(outputs) == ["x", "x.plan.html"]
    assert {path: path.read_bytes() for path in (outputs / "x").iterdir()} == before

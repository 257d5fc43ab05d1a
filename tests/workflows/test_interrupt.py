"""Ctrl-C at any time: one line, no process left behind, and the same command goes on from there."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT


def processes_of(group: int) -> list[str]:
    """Return the command lines of all living processes of a process group."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    fields = [line.split(None, 2) for line in listed.splitlines()]
    return [args for pgid, state, args in fields if int(pgid) == group and not state.startswith("Z")]


@pytest.mark.slow
def test_an_interrupted_run_says_so_leaves_nothing_running_and_goes_on(
    tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    config = {
        "model": {"name": str(tiny_model)},
        "data": {"sources": [{"path": str(rows_file)}]},
        "train": {
            "method": "full",
            "max_steps": 120,
            "logging_steps": 1,
            "processes_per_node": 2,
            "watch": {"evaluations": 0},
        },
        "evaluate": {"generate_rows": 0},
        "quantize": {"methods": []},
        "output_directory": str(tmp_path / "outputs"),
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    status, errors = interrupted_after("train: step 3/", path, tmp_path)
    assert status == 130
    # Python's resource tracker of a worker that was interrupted may have a warning after it
    line = errors.splitlines()[0]
    start = "stopped by the user; run the same command again to go on from the last checkpoint"
    found = re.fullmatch(re.escape(start) + r" \(step (\d+)\)", line)
    assert found, errors
    assert "│" not in errors and "Traceback" not in errors
    again = subprocess.run(
        command(path), cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=400
    )
    assert again.returncode == 0, again.stderr
    steps = [int(step) for step in re.findall(r"train: step (\d+)/120", again.stdout)]
    assert steps == list(range(int(found[1]) + 1, 121))
    # nothing is kept of a run that has ended, but what the cache names
    assert not list((tmp_path / "fine-tune-checkpoints").iterdir())
    for copies in ("fine-tune-trained-*", "torchelastic_*", "*.lock"):
        assert not list(tmp_path.glob(copies))
    assert all(path.name in ("lock", "folders.json") for path in tmp_path.glob("fine-tune-run-*/*"))


@pytest.mark.slow
def test_a_run_that_is_stopped_after_training_keeps_the_model_and_the_old_folder(
    tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    config = {
        "name": "x",
        "model": {"name": str(tiny_model)},
        "data": {"sources": [{"path": str(rows_file)}]},
        "train": {"method": "lora", "max_steps": 2, "watch": {"evaluations": 0}},
        "quantize": {"methods": []},
        # long enough to be interrupted
        "evaluate": {"generate_rows": 100, "max_new_tokens": 128, "batch_size": 1},
        "output_directory": str(tmp_path / "outputs"),
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    kept, place = tmp_path / "outputs" / "x.unfinished", tmp_path / "outputs" / "x"
    status, errors = interrupted_after("step get_data runs", path, tmp_path)
    # by then the step may have ended, and the next one have begun
    words = r"stopped by the user; run the same command again( to go on from (get_data|tokenize))?\n"
    assert status == 130 and re.fullmatch(words, errors)
    status, errors = interrupted_after("step evaluate tuned runs", path, tmp_path)
    assert status == 130
    assert errors == (
        "stopped by the user; run the same command again to go on from evaluate tuned; "
        f"the trained model is kept at {kept}/model\n"
    )
    assert (kept / "model" / "model.safetensors").is_file() and (kept / "adapter").is_dir()
    # nothing is in the way of the next run, and nothing half done in its place
    assert not place.exists() or not list(place.iterdir())
    again = subprocess.run(
        command(path), cwd=ROOT, env=environment(tmp_path), capture_output=True, text=True, timeout=400
    )
    assert again.returncode == 0, again.stderr
    assert "step train comes from the cache" in again.stdout
    assert "step evaluate tuned runs (it did not finish in the last run)" in again.stdout
    assert {"adapter", "model", "report.html", "run.json"} <= {path.name for path in place.iterdir()}
    assert not kept.exists()


def command(path: Path) -> list[str | Path]:
    return [Path(sys.executable).parent / "pyflyte", "run", "workflows/fine_tune.py", "fine_tune", "--config", path]


def environment(home: Path) -> dict[str, str]:
    # every step has its line
    return os.environ | {"HOME": str(home), "TMPDIR": str(home), "PROGRESS_SECONDS": "0"}


def interrupted_after(line: str, path: Path, home: Path) -> tuple[int, str]:
    """Start a run, interrupt it when it has printed `line`; return its status and what it said of it."""
    with (home / "out").open("w+") as out, (home / "err").open("w+") as err:
        run = subprocess.Popen(
            command(path), cwd=ROOT, env=environment(home), stdout=out, stderr=err, start_new_session=True
        )
        try:
            deadline = time.monotonic() + 240
            while line not in (home / "out").read_text():
                assert run.poll() is None and time.monotonic() < deadline, (home / "err").read_text()
                time.sleep(0.05)
            # as a terminal does it: to every process of the group
            os.killpg(run.pid, signal.SIGINT)
            status = run.wait(timeout=120)
            deadline = time.monotonic() + 30
            while processes_of(run.pid) and time.monotonic() < deadline:
                time.sleep(0.2)
            assert processes_of(run.pid) == []
        finally:
            if processes_of(run.pid):
                os.killpg(run.pid, signal.SIGKILL)
    return status, (home / "err").read_text()

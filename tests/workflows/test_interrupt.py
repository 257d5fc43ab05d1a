"""Ctrl-C in the middle of training: one line, no process left behind, and the steps before it are not repeated."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from conftest import ROOT


def processes_of(group: int) -> list[str]:
    """Return the command lines of all living processes of a process group."""
    listed = subprocess.run(["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True).stdout
    fields = [line.split(None, 2) for line in listed.splitlines()]
    return [args for pgid, state, args in fields if int(pgid) == group and not state.startswith("Z")]


def test_an_interrupted_run_says_so_and_leaves_nothing_running(
    tiny_model: Path, rows_file: Path, tmp_path: Path
) -> None:
    config = {
        "model": {"name": str(tiny_model)},
        "data": {"sources": [{"path": str(rows_file)}]},
        "train": {"method": "full", "max_steps": 100_000, "logging_steps": 1, "processes_per_node": 2},
        "evaluate": {"generate_rows": 0},
        "output_directory": str(tmp_path / "outputs"),
    }
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    with (tmp_path / "out").open("w+") as out, (tmp_path / "err").open("w+") as err:
        run = subprocess.Popen(
            [Path(sys.executable).parent / "pyflyte", "run", "workflows/fine_tune.py", "fine_tune", "--config", path],
            cwd=ROOT,
            env=os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
            stdout=out,
            stderr=err,
            start_new_session=True,
        )
        try:
            deadline = time.monotonic() + 240
            while "train: step 3/" not in (tmp_path / "out").read_text():
                assert run.poll() is None and time.monotonic() < deadline, (tmp_path / "err").read_text()
                time.sleep(0.2)
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
    assert status == 1
    errors = (tmp_path / "err").read_text()
    said = [line for line in errors.splitlines() if line.startswith("Error: ")]
    # Python's resource tracker of a worker that was interrupted may have a warning after it
    assert said == [
        "Error: training was interrupted; run the same command again: the steps before it come from the cache"
    ]
    assert "│" not in errors

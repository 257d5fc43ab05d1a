"""Benchmarks that use the project's own code still run, at the smallest size, and end with their table."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

SMALLEST = {
    "packing.py": (["--rows", "300", "--train-rows", "40", "--repeats", "1"], "padded, in random order"),
    "memory_plan.py": (["--grid", "small"], "4 cells, worst ratio"),
    "evaluate.py": (["--rows", "3", "--new-tokens", "4", "--repeats", "1", "--kinds", "plain"], "ours is"),
    "checkpoints.py": (["--parameters-million", "1", "--repeats", "1"], "ours: + checksums"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", list(SMALLEST))
def test_a_benchmark_runs(name: str, tmp_path: Path) -> None:
    arguments, words = SMALLEST[name]
    environment = os.environ | {"HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
    command = [sys.executable, str(ROOT / "benchmarks" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    assert words in done.stdout

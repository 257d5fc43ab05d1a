"""A disk that fills within a run: one error that names the disk, and the results of the run before are whole."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import PyFlyte, error_lines

pytestmark = pytest.mark.slow


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True)
    if os.geteuid() or mounted.returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


def rows_of(path: Path, number: int) -> Path:
    rows = [{"prompt": f"What is {n} plus {n}?", "completion": f"It is {2 * n}, as ever."} for n in range(number)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run(flyte: PyFlyte, rows: Path, outputs: Path, extra: dict[str, str] | None = None, **settings: Any) -> Any:
    config = {"name": "x", "data": {"sources": [{"path": str(rows)}]}, "output_directory": str(outputs), **settings}
    path = flyte.home / "config.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(config))
    return flyte("run", "workflows/prepare_data.py", "prepare_data", "--config", str(path), env=extra or {})


def test_a_full_output_folder_leaves_the_old_results_whole(pyflyte: PyFlyte, small_disk: Path, tmp_path: Path) -> None:
    outputs = small_disk / "outputs"
    assert run(pyflyte, rows_of(tmp_path / "few.jsonl", 100), outputs).returncode == 0
    before = {path: path.read_bytes() for path in (outputs / "x").iterdir()}
    many = run(pyflyte, rows_of(tmp_path / "many.jsonl", 4000), outputs, output_exists="replace")
    assert many.returncode == 1
    assert error_lines(many) == [
        f"Error: {outputs}/x.unfinished: the disk is full (mounted at {small_disk}, 0.00 GiB)",
        "free some space there, or set output_directory or TMPDIR to a folder on another disk",
    ]
    assert {path: path.read_bytes() for path in (outputs / "x").iterdir()} == before
    # and with space, the same command goes on
    subprocess.run(["mount", "-o", "remount,size=4m", small_disk], check=True)
    assert run(pyflyte, tmp_path / "many.jsonl", outputs, output_exists="replace").returncode == 0
    assert len((outputs / "x" / "train.jsonl").read_text().splitlines()) > 3000


def test_a_full_temporary_folder_is_one_error(pyflyte: PyFlyte, small_disk: Path, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "many.jsonl", 8000)
    full = run(pyflyte, rows, tmp_path / "outputs", {"TMPDIR": str(small_disk)})
    assert full.returncode == 1
    first, advice = error_lines(full)
    assert first.startswith(f"Error: {small_disk}/") and f"the disk is full (mounted at {small_disk}" in first
    assert advice == "free some space there, or set output_directory or TMPDIR to a folder on another disk"
    assert not (tmp_path / "outputs" / "x").exists()


def test_a_full_home_is_one_error(pyflyte: PyFlyte, small_disk: Path, tmp_path: Path) -> None:
    rows = rows_of(tmp_path / "few.jsonl", 100)
    (small_disk / "ballast").write_bytes(bytes(250_000))
    full = run(pyflyte, rows, tmp_path / "outputs", {"HOME": str(small_disk)})
    assert full.returncode == 1
    assert len(error_lines(full)) <= 2 and str(small_disk) in error_lines(full)[0]

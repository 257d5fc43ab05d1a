"""A process is killed while it puts results into place: the old files lie there, or the new ones."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path

import pytest
from conftest import ROOT

from tasks.files.run_folder import claim, release

# replaces its folder again and again, each time with the files of another run
_REPLACE = """
import itertools, json, sys
from hashlib import sha256
from pathlib import Path
from tasks.files.copies import copy_folder
from tasks.files.run_folder import claim, finish

def record_run(folder, record):
    (folder / ".run.json").write_text(json.dumps(record))
    (folder / ".run.json").replace(folder / "run.json")

parent, source = Path(sys.argv[1]), Path(sys.argv[2])
print("ready", flush=True)
for number in itertools.count(int(sys.argv[3])):
    for part in range(4):
        (source / f"{part}.bin").write_bytes(f"{number} ".encode() * 50_000)
    folder = claim(parent, "x", "same", "number")
    record_run(folder.unfinished, {"identity": "same"})
    model = copy_folder(source, folder.unfinished / "model")
    (folder.unfinished / "report.html").write_text(str(number))
    names = ["report.html", *(f"model/{part}.bin" for part in range(4))]
    hashes = {name: sha256((folder.unfinished / name).read_bytes()).hexdigest() for name in names}
    record_run(folder.unfinished, {"identity": "same", "files": ["model", "report.html"], "sha256": hashes})
    finish(folder)
"""


def numbers_in(place: Path) -> set[str]:
    """Return the numbers of the runs whose files lie in a folder: of every whole file, and of the report."""
    found = {(place / "report.html").read_text()}
    for part in range(4):
        words = (place / "model" / f"{part}.bin").read_text().split()
        assert len(words) == 50_000
        found |= set(words)
    return found


def test_a_killed_export_leaves_the_old_files_or_the_new_ones(tmp_path: Path) -> None:
    parent, source = tmp_path / "outputs", tmp_path / "model"
    parent.mkdir()
    source.mkdir()
    chance, last, seen = random.Random(20), -1, set()
    for _ in range(10):
        arguments = [sys.executable, "-c", _REPLACE, str(parent), str(source), str(last + 1)]
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.02, 0.12))
            assert process.poll() is None
            process.kill()
        if not (parent / "x").exists():
            # killed before the first run had ended
            assert last == -1
            continue
        (number,) = numbers_in(parent / "x")
        record = json.loads((parent / "x" / "run.json").read_text())
        assert all(
            sha256((parent / "x" / name).read_bytes()).hexdigest() == digest
            for name, digest in record["sha256"].items()
        )
        assert int(number) >= last
        last = int(number)
        # what the next run begins with: it clears away what was cut short
        release(claim(parent, "x", "same", "number"))
        assert {path.name for path in parent.iterdir()} <= {"x", "x.unfinished", ".fine-tune.lock"}
        seen.add(last)
    assert len(seen) > 3


def test_a_killed_copy_of_a_model_leaves_no_half_of_one(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "model"
    source.mkdir()
    for part in range(40):
        (source / f"{part}.bin").write_bytes(bytes([part]) * 300_000)
    copying = """
import sys
from pathlib import Path
from tasks.files.copies import copy_folder
print("ready", flush=True)
while True:
    copy_folder(Path(sys.argv[1]), Path(sys.argv[2]))
"""
    chance = random.Random(7)
    for _ in range(4):
        arguments = [sys.executable, "-c", copying, str(source), str(target)]
        with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            time.sleep(chance.uniform(0.02, 0.1))
            process.kill()
        if target.exists():
            assert {path.name: path.stat().st_size for path in target.iterdir()} == {
                f"{part}.bin": 300_000 for part in range(40)
            }


pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="folders are replaced as Linux does it")

"""What a laptop's run leaves under the temporary folder, however it ends: real processes, real signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from conftest import ROOT
from flytekit.core import local_cache

from tasks.runtime import leftovers

# prints the own folder of the run, and the paths of an output that the cache names and of a copy that it does not
_RUN = """
import os, sys, tempfile, time
from pathlib import Path
import click
from flytekit.clis.sdk_in_container.utils import ErrorHandlingCommand
from flytekit.configuration import Config
from flytekit.core.data_persistence import flyte_tmp_dir
from flytekit.core.local_cache import LocalTaskCache
from flytekit.models.core.types import BlobType
from flytekit.models.literals import Blob, BlobMetadata, Literal, LiteralMap, Scalar
from configs.errors import DataError
from tasks.runtime import leftovers
from tasks.runtime.command_line import end_readably
from tasks.runtime.pods import laptop_checkpoints

@click.group(cls=ErrorHandlingCommand)
@click.option("--verbose", default=0)
def main(verbose): pass

@main.command()
@click.argument("ending")
def run(ending):
    leftovers.begin()
    scratch = Path(Config.auto().local_sandbox_path) / "user_space1"
    named, copy, raw = scratch / "model-1", scratch / "part-1", Path(flyte_tmp_dir) / "raw" / "2"
    for folder in (named, copy, raw, Path(tempfile.mkdtemp(prefix="torchelastic_")), laptop_checkpoints("run")):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "weights").write_bytes(b"weights")
    blob = Blob(BlobMetadata(BlobType("", BlobType.BlobDimensionality.MULTIPART)), str(named))
    outputs = LiteralMap({"o0": Literal(scalar=Scalar(blob=blob))})
    LocalTaskCache.set("tasks.get_model", "1", LiteralMap({}), (), outputs)
    print(named, flush=True)
    if ending == "fails":
        raise DataError("row 3: is wrong")
    if ending == "is stopped":
        time.sleep(60)

end_readably(main)
main(["run", sys.argv[1]])
"""


def start(home: Path, ending: str) -> subprocess.Popen[str]:
    (home / "tmp").mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"HOME": str(home), "TMPDIR": str(home / "tmp")}
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-c", _RUN, ending], cwd=ROOT, env=environment, stdout=pipe, stderr=pipe, text=True
    )


def files_below(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def left(home: Path, named: str) -> list[str]:
    """Return what is under the temporary folder besides the named output, the checkpoint and the runs' records."""
    expected = {str(Path(named) / "weights"), str(home / "tmp" / "fine-tune-checkpoints" / "run" / "weights")}
    paths = [path for path in files_below(home / "tmp") if path.name not in ("lock", "folders.json")]
    assert expected <= {str(path) for path in paths}
    return [str(path) for path in paths if str(path) not in expected]


@pytest.mark.slow
def test_nothing_is_left_however_a_run_ends(tmp_path: Path) -> None:
    endings = {"ends": (None, 0), "fails": (None, 1), "SIGINT": (signal.SIGINT, 130), "SIGTERM": (signal.SIGTERM, 143)}
    runs = {}
    for name, (number, _) in {**endings, "SIGKILL": (signal.SIGKILL, -9)}.items():
        runs[name] = start(tmp_path / name, name if number is None else "is stopped")
    named = {}
    for name, run in runs.items():
        assert run.stdout is not None
        named[name] = run.stdout.readline().strip()
        if name.startswith("SIG"):
            run.send_signal(signal.Signals[name])
    for name, (_, status) in endings.items():
        _, errors = runs[name].communicate(timeout=60)
        assert (runs[name].returncode, left(tmp_path / name, named[name])) == (status, []), errors
        said = {
            "fails": "Error: row 3: is wrong\n",
            "SIGINT": "stopped by the user; ",
            "SIGTERM": "stopped by SIGTERM; ",
        }
        assert errors.startswith(said.get(name, ""))
        assert name == "fails" or not errors.startswith("Error")
    # a killed run cannot clean: the next one does, and leaves those alone that live
    runs["SIGKILL"].communicate(timeout=60)
    home = tmp_path / "SIGKILL"
    assert len(left(home, named["SIGKILL"])) == 3
    alive = start(home, "is stopped")
    assert alive.stdout is not None
    living = alive.stdout.readline().strip()
    num_files = len(files_below(home / "tmp"))
    after = start(home, "ends")
    _, errors = after.communicate(timeout=60)
    assert after.returncode == 0, errors
    # of the killed run, what its first successor has left; of the living one, all; of the last, its record
    assert len(files_below(home / "tmp")) >= num_files and Path(living).is_dir()
    alive.send_signal(signal.SIGTERM)
    assert alive.wait(timeout=60) == 143
    # the cache names the output of the last run alone: the next run deletes that of the others
    start(home, "ends").communicate(timeout=60)
    assert not Path(named["SIGKILL"]).exists() and not Path(living).exists()
    assert not list((home / "tmp").glob("fine-tune-run-*/torchelastic_*"))


def test_runs_of_another_cache_are_left_alone(tmp_path: Path) -> None:
    other = tmp_path / "tmp" / "fine-tune-run-1-x"
    other.mkdir(parents=True)
    (other / "folders.json").write_text(json.dumps({"cache": "/of/another", "folders": [str(tmp_path)]}))
    began = time.monotonic()
    run = start(tmp_path, "ends")
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 0, errors
    assert (other / "folders.json").is_file() and time.monotonic() - began < 60


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A home and a temporary folder of the test's own; the folder of Flyte's cache in that home."""
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr(local_cache, "CACHE_LOCATION", str(tmp_path / "home"))
    monkeypatch.setattr(leftovers, "_is_allowed", True)
    monkeypatch.setattr(tempfile, "tempdir", None)
    return str(tmp_path / "home")


def test_a_record_deletes_no_folder_but_those_of_runs(tmp_path: Path, cache: str) -> None:
    """Whoever may write to the temporary folder could name any folder in such a record."""
    victim, known = tmp_path / "photos", tmp_path / "tmp" / "flyte-1"
    linked, other = tmp_path / "tmp" / "flyte-linked", tmp_path / "tmp" / "fine-tune-run-9-x"
    for folder in (victim, known, other):
        folder.mkdir()
        (folder / "file").touch()
    linked.symlink_to(victim)
    named = [str(victim), str(known), str(linked), f"{tmp_path}/tmp/flyte-1/../../photos", 7]
    (other / "folders.json").write_text(json.dumps({"cache": cache, "folders": named}))
    leftovers.begin()
    leftovers.clean()
    assert (victim / "file").is_file()
    assert not known.exists() and not other.exists()


@pytest.mark.parametrize("content", ["", "[1]", '{"cache": 7}', '{"folders": {"a": 1}}', "[" * 100_000])
def test_a_record_that_was_cut_short_breaks_no_run(content: str, tmp_path: Path, cache: str) -> None:
    broken = tmp_path / "tmp" / "fine-tune-run-9-x"
    broken.mkdir()
    (broken / "folders.json").write_text(content)
    leftovers.begin()
    leftovers.clean()
    assert not broken.exists() or content == '{"cache": 7}'

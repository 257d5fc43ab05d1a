"""How `pyflyte` ends when a run on a laptop fails: with the place of its models, whatever the error. Real processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

_FAILING = """
import sys
from pathlib import Path
import click
from flytekit.clis.sdk_in_container.utils import ErrorHandlingCommand
from flytekit.types.directory import FlyteDirectory
from configs.errors import DataError, InterruptedRunError
from configs.schema import FineTuneConfig
from tasks.runtime import laptop_run
from tasks.runtime.command_line import end_readably

error, model, outputs = sys.argv[1:]

@click.group(cls=ErrorHandlingCommand)
@click.option("--verbose", default=0)
def main(verbose): pass

@main.command()
def run():
    source = {"sources": [{"path": "rows.jsonl"}]}
    laptop_run.begin(FineTuneConfig(name="x", data=source, output_directory=outputs), "fine_tune")
    if model:
        laptop_run.keep_models({"adapter": FlyteDirectory(model), "model": FlyteDirectory(model)})
    raise {"ours": DataError("row 3: is wrong"), "defect": KeyError("unforeseen"),
           "stopped": InterruptedRunError("stopped by the user")}[error]

end_readably(main)
main(["run"])
"""


def failed(error: str, model: str, outputs: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _FAILING, error, model, str(outputs)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        ("ours", 1, "Error: row 3: is wrong\n{}"),
        ("defect", 1, None),
        ("stopped", 130, "stopped by the user; {}"),
    ],
)
def test_an_error_ends_with_the_place_of_the_model(
    error: str, status: int, message: str | None, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "model.safetensors").write_bytes(b"weights")
    done = failed(error, str(tmp_path / "made"), tmp_path / "outputs")
    kept = tmp_path / "outputs" / "x.unfinished" / "model"
    line = f"the trained model is kept at {kept}"
    assert done.returncode == status
    assert done.stderr.splitlines()[-1].endswith(line)
    assert message is None or done.stderr == message.format(line) + "\n"
    assert (kept / "model.safetensors").read_bytes() == b"weights"


def test_an_error_before_training_ends_as_it_is(tmp_path: Path) -> None:
    done = failed("ours", "", tmp_path)
    assert (done.returncode, done.stderr) == (1, "Error: row 3: is wrong\n")

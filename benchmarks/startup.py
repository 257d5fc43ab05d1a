"""Start-up time of `pyflyte run workflows/fine_tune.py --help`, against a file with only an empty `Elastic` task.

Prints both medians and their ratio. The two run alternately, so that noise of the machine affects both. The Elastic
plug-in imports torch, which neither can avoid.

    python benchmarks/startup.py [--runs 7]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
PYFLYTE = Path(sys.executable).parent / "pyflyte"
EMPTY = """
from flytekit import task, workflow
from flytekitplugins.kfpytorch import Elastic


@task(task_config=Elastic(nnodes=1))
def train() -> None: ...


@workflow
def fine_tune() -> None:
    train()
"""


def seconds(file: Path) -> float:
    """Return the wall time of `pyflyte run FILE --help`."""
    started = time.perf_counter()
    subprocess.run([PYFLYTE, "run", str(file), "--help"], cwd=ROOT, check=True, capture_output=True)
    return time.perf_counter() - started


def main() -> None:
    """Print both medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=7, help="pairs of runs, after one that is not counted")
    runs = parser.parse_args().runs
    with tempfile.TemporaryDirectory() as folder:
        empty = Path(folder) / "empty_workflow.py"
        empty.write_text(EMPTY)
        pairs = [(seconds(empty), seconds(ROOT / "workflows" / "fine_tune.py")) for _ in range(runs + 1)][1:]
    baseline, ours = (statistics.median(column) for column in zip(*pairs, strict=True))
    ratio = statistics.median(own / empty_seconds for empty_seconds, own in pairs)
    print(f"empty Elastic workflow  {baseline:.2f} s (median of {runs})")
    print(f"workflows/fine_tune.py  {ours:.2f} s")
    print(f"ratio                   {ratio:.2f} (target: at most 1.15)")


if __name__ == "__main__":
    main()

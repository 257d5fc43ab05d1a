"""A pod's log ends with its work, not with flytekit's report of a connection to the store that stayed open."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from flyteidl.core.literals_pb2 import LiteralMap
from rehearsal.literals import as_form
from rehearsal.store import Store

from tasks.plan.task import resolve_data

REPORT = "Unclosed client session"


@pytest.fixture(scope="module")
def store() -> Iterator[Store]:
    """A store with a task's inputs, and with the archive that registration uploads; here it is empty."""
    with Store() as store:
        config = as_form({"data": {"sources": [{"path": "s3://none/rows.jsonl"}]}, "train": {"epochs": -1}})
        store.write(store.uri("inputs.pb"), LiteralMap(literals={"config": config}).SerializeToString())
        archive = io.BytesIO()
        tarfile.open(fileobj=archive, mode="w:gz").close()
        store.write(store.uri("project.tar.gz"), archive.getvalue())
        yield store


def log_of_a_pod(store: Store, home: Path, environment: dict[str, str]) -> str:
    """Run a task as its registered command does: one process downloads the project, the second runs the task."""
    programs = Path(sys.executable).parent
    command = [programs / "pyflyte-fast-execute", "--additional-distribution", store.uri("project.tar.gz")]
    command += ["--dest-dir", home, "--", programs / "pyflyte-execute", "--inputs", store.uri("inputs.pb")]
    command += ["--output-prefix", store.uri("out"), "--raw-output-data-prefix", store.uri("raw"), "--resolver"]
    command += ["flytekit.core.python_auto_container.default_task_resolver", "--"]
    command += ["task-module", "tasks.plan.task", "task-name", "resolve_data"]
    variables = {"PATH": os.environ["PATH"], "HOME": str(home), "PYTHONPATH": str(ROOT), **store.environment}
    variables |= {"FLYTE_INTERNAL_EXECUTION_ID": "f0", **environment}
    result = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=120)
    return result.stdout + result.stderr


def test_no_log_ends_with_an_open_connection(store: Store, tmp_path: Path) -> None:
    log = log_of_a_pod(store, tmp_path, resolve_data.environment)
    assert REPORT not in log
    # flytekit's own errors are still there
    assert "Exception when executing task tasks.plan.task.resolve_data" in log
    assert "train.epochs=-1 is not above 0; raise it" in log


def test_without_the_tasks_level_the_process_that_downloads_the_project_reports_it(
    store: Store, tmp_path: Path
) -> None:
    environment = {k: v for k, v in resolve_data.environment.items() if k != "FLYTE_SDK_LOGGING_LEVEL"}
    log = log_of_a_pod(store, tmp_path, environment)
    # once: the filter of the process that runs the task holds its own back
    assert log.count(REPORT) == 1
    assert "ERROR" in log.strip().splitlines()[-1] and REPORT in log.strip().splitlines()[-1]

"""The launcher of training processes follows the config, and reports why a process failed. All processes are real."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from flyteidl.core.errors_pb2 import ErrorDocument
from flytekit.bin.entrypoint import get_traceback_str
from flytekit.exceptions.user import FlyteUserRuntimeException
from support.elastic_tasks import elastic, on_one, on_two
from support.pods import NON_RECOVERABLE, RECOVERABLE, Pod, machine_environments

from configs.schema.cluster import ClusterConfig
from configs.schema.train import TrainConfig
from tasks.runtime.elastic import TrainingDefectError, launch_config
from tasks.runtime.shown_errors import shown_error

pytestmark = pytest.mark.slow


def pod(task: Any, home: Path, fault: str, environment: dict[str, str] | None = None, **settings: Any) -> Pod:
    inputs = {
        "config": TrainConfig(nodes=settings.pop("nodes", 1), processes_per_node=settings.pop("processes", 2)),
        "cluster": ClusterConfig(**{"max_restarts": 0, **settings}),
        "fault": fault,
        "starts": str(home / "starts"),
    }
    return Pod(task, home, inputs, environment=environment or {})


def starts(home: Path) -> list[str]:
    return (home / "starts").read_text().split()


def test_the_launch_follows_the_config() -> None:
    config = TrainConfig(nodes=5, processes_per_node=4, batch_size=160)
    launch = launch_config(elastic("5"), config, ClusterConfig(max_restarts=2, join_timeout_seconds=77))
    assert (launch.nnodes, launch.nproc_per_node, launch.max_restarts, launch.monitor_interval) == ("5", 4, 2, 1)
    assert launch.rdzv_configs == {"timeout": 77, "join_timeout": 77, "read_timeout": 77}


def test_a_process_killed_in_a_collective_is_named_and_recoverable(tmp_path: Path) -> None:
    error = pod(on_one, tmp_path, "killed", memory_gib_per_process=96).run().error
    assert error.kind == RECOVERABLE
    assert error.message.startswith("Trace:\n\n    RetryError: rank 1 was killed by SIGKILL")
    assert "train.cluster.memory_gib_per_process (now 96)" in error.message
    assert "ChildFailedError" not in error.message


def test_a_refused_config_shows_its_own_message_and_is_not_restarted(tmp_path: Path) -> None:
    began = time.time()
    error = pod(on_one, tmp_path, "refused", max_restarts=1).run().error
    assert error.kind == NON_RECOVERABLE
    message = "ConfigError: train.seed=7: not today\n    set it to 8"
    assert error.message == f"Trace:\n\n    {message}\n\nMessage:\n\n    {message}"
    # each rank ran the task once, although torch elastic restarted both
    assert sorted(starts(tmp_path)) == ["0", "1"]
    assert began < error.timestamp.seconds < time.time() - 1


@pytest.mark.parametrize(
    ("reported", "shown"),
    [
        (shown_error("DataError", "rows.jsonl: not today\nsort it"), "DataError: rows.jsonl: not today</p><p class"),
        (
            TrainingDefectError('rank 9 failed: KeyError\n  File "x.py", line 1\nKeyError: a row'),
            "rank 9 failed: KeyError<",
        ),
    ],
)
def test_the_deck_shows_the_first_error_that_a_machine_has_reported(
    reported: Exception, shown: str, tmp_path: Path
) -> None:
    written = ErrorDocument(error={"message": get_traceback_str(FlyteUserRuntimeException(reported))})
    path = tmp_path / "out-0" / "error-of-another-machine.pb"
    path.parent.mkdir()
    path.write_bytes(written.SerializeToString())
    failed = pod(on_one, tmp_path, "refused").run()
    assert shown in failed.deck and "train.seed=7" not in failed.deck and "a row" not in failed.deck
    assert "train.seed=7: not today" in failed.error.message


def test_a_defect_shows_the_traceback_of_its_process(tmp_path: Path) -> None:
    error = pod(on_one, tmp_path, "defect").run().error
    assert error.kind == NON_RECOVERABLE
    # no frame of the launcher stands before it
    kind = "tasks.runtime.elastic.TrainingDefectError"
    assert error.message.startswith(f"Trace:\n\n    {kind}: rank 1 of machine 0 failed: ValueError\n")
    assert 'raise ValueError("boom")' in error.message and "ValueError: boom" in error.message
    assert "ChildFailedError" not in error.message


def test_a_process_that_ends_without_an_error_is_named(tmp_path: Path) -> None:
    error = pod(on_one, tmp_path, "silent").run().error
    assert error.kind == NON_RECOVERABLE
    assert "rank 1 ended with exit status 3" in error.message


def test_a_lost_connection_is_restarted_within_the_attempt(tmp_path: Path) -> None:
    done = pod(on_one, tmp_path, "lost once", max_restarts=1).run()
    assert done.outputs["o0"].scalar.primitive.string_value == "2", done.log[-2000:]
    assert sorted(starts(tmp_path)) == ["0", "0", "1", "1"]


def test_a_machine_asked_to_stop_is_a_recoverable_fault(tmp_path: Path) -> None:
    running = pod(on_one, tmp_path, "slow").start()
    deadline = time.monotonic() + 120
    while "training" not in running.log and time.monotonic() < deadline:
        time.sleep(0.2)
    os.kill(running.process.pid, signal.SIGTERM)
    error = running.wait(60).error
    assert error.kind == RECOVERABLE
    assert error.message.startswith("Trace:\n\n    RetryError: preempted: the machine was asked to stop (SIGTERM)")


def test_waiting_for_a_machine_ends_after_the_configured_timeout(tmp_path: Path) -> None:
    [environment, _] = machine_environments(2, 1)
    # rank 0's machine, which has the curves, has published its Deck
    page = tmp_path / "out-0" / "deck.html"
    page.parent.mkdir()
    page.write_text("the curves")
    began = time.monotonic()
    alone = pod(on_two, tmp_path, "none", environment, nodes=2, processes=1, join_timeout_seconds=5).run()
    assert time.monotonic() - began < 60
    assert alone.error.kind == RECOVERABLE
    assert "train.nodes=2: not all machines joined within train.cluster.join_timeout_seconds=5" in alone.error.message
    assert not (tmp_path / "starts").exists()
    assert page.read_text() == "the curves"


def test_no_machine_ends_before_the_outputs_are_there(tmp_path: Path) -> None:
    pods = [
        pod(on_two, tmp_path, "none", environment, nodes=2, processes=1) for environment in machine_environments(2, 1)
    ]
    for number, running in enumerate(pods):
        running.machine = number
        running.start()
    while all(running.process.poll() is None for running in pods):
        time.sleep(0.01)
    assert (tmp_path / "out-0" / "outputs.pb").exists()
    for running in pods:
        running.wait()
    assert pods[0].outputs["o0"].scalar.primitive.string_value == "2"
    assert not (tmp_path / "out-0" / "error.pb").exists()


@pytest.mark.parametrize("max_restarts", [0, 1])
def test_the_other_machine_ends_too_and_the_first_error_is_reported(max_restarts: int, tmp_path: Path) -> None:
    settings = {"nodes": 2, "processes": 1, "max_restarts": max_restarts}
    pods = [
        pod(on_two, tmp_path / str(number), "refused", environment, **settings)
        for number, environment in enumerate(machine_environments(2, 1))
    ]
    for running in pods:
        running.start()
    errors = sorted((running.wait(150).error for running in pods), key=lambda error: error.timestamp.ToNanoseconds())
    assert all("<li" in running.deck and ">error</li>" in running.deck for running in pods)
    # Flyte shows the earliest error
    assert "train.seed=7: not today" in errors[0].message and errors[0].kind == NON_RECOVERABLE
    messages = {
        0: ["lost the other processes", "could not be reached, or has ended already"],
        # the other machine restarts; then it reads the shared fault, or is too late to join
        1: ["train.seed=7: not today", "another machine ended the run", "could not be reached, or has ended already"],
    }
    assert any(message in errors[1].message for message in messages[max_restarts]), errors[1].message

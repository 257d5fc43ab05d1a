"""Machines are lost in every stage, one of a job or a whole pod: the next try goes on, and the weights are the same."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from rehearsal.engine import Fault, Try
from rehearsal.stage import Stage, open_stage

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


def logs(text: str) -> Any:
    """Return what holds once a pod of a try has written `text`."""
    return lambda attempt: text in attempt.log


def config_of(model: Path, rows: Path) -> dict[str, Any]:
    return {
        "name": "lost",
        "model": {"name": str(model)},
        "data": {"sources": [{"path": str(rows)}]},
        "train": {
            "method": "full",
            "max_steps": 60,
            "batch_size": 8,
            "micro_batch_size": 2,
            "learning_rate": 1e-3,
            "processes_per_node": 2,
            "checkpoint": {"every_steps": 2},
            "cluster": {"max_restarts": 0},
            "watch": {"evaluations": 2},
        },
        "evaluate": {"generate_rows": 2, "max_new_tokens": 4},
        "quantize": {"methods": []},
    }


@dataclass
class Losses:
    stage: Stage
    config: dict[str, Any]
    weights: bytes
    """Of the laptop's run, which nothing disturbed."""


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, rows_file: Path) -> Iterator[Losses]:
    with open_stage(tmp_path_factory.mktemp("lost")) as stage:
        config = config_of(tiny_model, rows_file)
        folder = stage.run_on_laptop(config)
        yield Losses(stage, config, (folder / "model" / "model.safetensors").read_bytes())


def steps(attempt: Try) -> list[int]:
    """Return the optimizer steps that a try has shown in its log."""
    lines = [line for line in attempt.log.splitlines() if line.startswith("train: step ") and "loss" in line]
    return [int(line.removeprefix("train: step ").partition("/")[0]) for line in lines]


def has_commit(stage: Stage, repository: str) -> bool:
    """Return whether something was pushed, beside the commit that a hub makes with a repository."""
    try:
        return len(stage.hub.commits(repository)) > 1
    except KeyError:
        return False


def test_a_lost_node_and_pods_lost_in_other_stages_change_no_weight(losses: Losses) -> None:
    stage = losses.stage
    train = {**losses.config["train"], "nodes": 2, "processes_per_node": 1}
    push = {"repository": "me/lost", "reason": "a trial"}
    asked = stage.run_remote({**losses.config, "train": train, "push_to_hub": push})
    assert asked.returncode == 0, asked.stdout[-2000:] + asked.stderr[-2000:]
    # else the pod may end between the commit and its kill
    stage.hub.hold_next_answer("tag")
    stage.cluster.faults = [
        Fault("get_data", lambda attempt: attempt.pods[0].disk.exists()),
        Fault("train_2", logs("checkpoint of step 20 saved"), machine=1),
        Fault("evaluate", logs("evaluate")),
        # the hub has the commit, and Flyte does not know of it
        Fault("map_push_to_hub", lambda attempt: has_commit(stage, "me/lost")),
    ]
    result = stage.execute_last()
    assert [fault.task for fault in stage.cluster.faults if not fault.done] == []
    assert stage.folder(result["model"]["path"])["model.safetensors"] == losses.weights
    first, second = stage.cluster.tries_of("train_2")
    assert first.error is not None
    # at most one interval is trained again
    assert steps(second)[0] >= 20, steps(second)
    # the second try has found the first one's commit
    assert len(stage.hub.commits("me/lost")) == 2
    for task in ("get_data", "map_push_to_hub"):
        assert len(stage.cluster.tries_of(task)) == 2, task


def test_a_lost_pod_goes_on_from_its_last_checkpoint_with_the_same_weights(losses: Losses) -> None:
    stage = losses.stage
    asked = stage.run_remote(losses.config)
    assert asked.returncode == 0, asked.stdout[-2000:] + asked.stderr[-2000:]
    stage.cluster.faults = [
        Fault("train_1", logs("checkpoint of step 10 saved")),
        Fault("train_1", logs("checkpoint of step 30 saved"), number=1),
    ]
    result = stage.execute_last()
    assert stage.folder(result["model"]["path"])["model.safetensors"] == losses.weights
    first, second, third = stage.cluster.tries_of("train_1")
    assert steps(second)[0] >= 10 and steps(third)[0] >= 30
    assert "a pod was lost" in str(first.error) and "a pod was lost" in str(second.error)


def test_an_error_that_would_come_again_is_not_tried_again(losses: Losses, tmp_path: Path) -> None:
    from rehearsal.engine import ExecutionFailedError

    stage = losses.stage
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "no answer"}\n{"prompt": "a", "completion": "b"}\n', encoding="utf-8")
    asked = stage.run_remote({**losses.config, "data": {"sources": [{"path": str(rows)}]}})
    assert asked.returncode == 0, asked.stdout[-2000:] + asked.stderr[-2000:]
    before = len(stage.cluster.tries)
    with pytest.raises(ExecutionFailedError) as failed:
        stage.execute_last()
    assert "rows.jsonl" in failed.value.error, failed.value.error
    tries = stage.cluster.tries[before:]
    assert [attempt.number for attempt in tries] == [0] * len(tries)
    assert "no answer" not in "".join(attempt.log for attempt in tries)

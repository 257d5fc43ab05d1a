"""Decks that are there while a task still runs, as a cluster runs it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from flytekit.types.directory import FlyteDirectory
from support.pods import NON_RECOVERABLE, Pod, machine_environments

import tasks.evaluate.task as evaluate_task
import tasks.train.task as train_task
from configs.schema import EvaluateConfig, ModelConfig
from configs.schema.cluster import CheckpointConfig, ClusterConfig
from configs.schema.tracking import TrackingConfig
from configs.schema.train import TrainConfig

FAST = {"PROGRESS_SECONDS": "1"}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty-two rows of random letters, with prompts of four."""
    rows = [
        {
            "row_id": f"rows:{number}",
            "input_ids": (ids := [2 + (number * 7 + place * 3) % 200 for place in range(24 + number)] + [1]),
            "labels": [-100] * 4 + ids[4:],
            "prompt_length": 4,
            "prompt": f"prompt-{number}",
            "expected": "expected",
            "dataset": "held-out",
        }
        for number in range(32)
    ]
    directory = tmp_path_factory.mktemp("tokens")
    pd.DataFrame(rows).to_parquet(directory / "tokens.parquet")
    return directory


def training(model: Path, tokens: Path, **train: Any) -> dict[str, Any]:
    settings = {"method": "full", "batch_size": 4, "micro_batch_size": 2, "logging_steps": 1, "learning_rate": 1e-4}
    apart: dict[str, Any] = {
        "cluster": ClusterConfig(max_restarts=0),
        "checkpoint": CheckpointConfig(),
        "tracking": TrackingConfig(),
    }
    return {
        "config": TrainConfig(**{**settings, "watch": {"evaluations": 0}, **train}),
        **apart,
        "deepspeed_json": "",
        "loading": ModelConfig(name="tiny"),
        "model": FlyteDirectory(str(model), remote_directory=False),
        "tokens": FlyteDirectory(str(tokens), remote_directory=False),
        "held_out": FlyteDirectory(str(tokens), remote_directory=False),
        "tokenizer": FlyteDirectory(str(model), remote_directory=False),
        "end_token_ids": [1],
        "new_token_ids": [],
        "reward_models": [],
        "rewards_version": "",
    }


def seen_while_running(pods: Sequence[Pod], is_enough: Callable[[str], bool]) -> str:
    """Return the first Deck that is enough, before any of the pods has ended."""
    deck, deadline = pods[0].output / "deck.html", time.monotonic() + 200
    while time.monotonic() < deadline:
        assert all(pod.process.poll() is None for pod in pods), "\n".join(pod.log[-3000:] for pod in pods)
        text = deck.read_text(encoding="utf-8") if deck.exists() else ""
        if is_enough(text):
            assert not (pods[0].output / "outputs.pb").exists()
            return text
        time.sleep(0.2)
    raise AssertionError(pods[0].log[-3000:])


@pytest.mark.slow
@pytest.mark.parametrize("num_machines", [1, 2])
def test_the_loss_of_a_training_is_shown_before_it_ends(
    num_machines: int, tiny_model: Path, tokens: Path, tmp_path: Path
) -> None:
    task = {1: train_task.train_1, 2: train_task.train_2}[num_machines]
    inputs = training(tiny_model, tokens, nodes=num_machines, max_steps=400 // num_machines)
    environments = [{}] if num_machines == 1 else machine_environments(2, 1)
    pods = [
        Pod(task, tmp_path, inputs, environment={**FAST, **machine}, machine=number).start()
        for number, machine in enumerate(environments)
    ]
    found = seen_while_running(pods, lambda deck: re.search(r"Step [\d,]+ of ", deck) is not None)
    step, of, loss = re.search(r"Step (\d+) of (\d+) \(\d+%\), loss (\d+\.\d{4})", found).groups()
    assert 0 < int(step) < int(of) == 400 // num_machines
    # the same point of the curve is in the log
    assert f"train: step {step}/{of}  loss {loss}" in "".join(pod.log for pod in pods)
    # a newer one takes its place
    later = seen_while_running(pods, lambda deck: deck not in ("", found))
    assert int(re.search(r"Step (\d+) of", later)[1]) > int(step)
    for pod in pods:
        pod.wait()
    final = (tmp_path / "out-0" / "deck.html").read_text(encoding="utf-8")
    # the Deck of the whole run, which also says how it ran
    assert "Step " not in final and "How it ran" in final and "<svg" in final
    assert final.count(">training</li>") == 1


@pytest.mark.slow
def test_the_curve_of_a_run_that_failed_remains(tiny_model: Path, tokens: Path, tmp_path: Path) -> None:
    # without any limit a rate far too high ruins the model
    inputs = training(tiny_model, tokens, nodes=2, max_steps=200, learning_rate=30.0, max_grad_norm=1e9)
    pods = [
        Pod(train_task.train_2, tmp_path, inputs, environment={**FAST, **machine}, machine=number).start()
        for number, machine in enumerate(machine_environments(2, 1))
    ]
    for pod in pods:
        pod.wait()
    assert pods[0].error.kind == NON_RECOVERABLE
    deck = (tmp_path / "out-0" / "deck.html").read_text(encoding="utf-8")
    assert "Training ended: " in deck and "train.learning_rate (now 30)" in deck, pods[0].log[-2000:]
    assert "<svg" in deck and re.search(r"Step \d+ of 200", deck)
    # the console opens the first
    assert re.findall(r"<li onclick[^>]*>([^<]*)</li>", deck) == ["error", "training"]
    assert "DivergedError: " in deck


@pytest.mark.slow
def test_answers_are_shown_while_they_are_made(tiny_model: Path, tokens: Path, tmp_path: Path) -> None:
    inputs = {
        "label": "tuned",
        "config": EvaluateConfig(batch_size=1, max_new_tokens=200),
        "loading": ModelConfig(name="tiny"),
        "model": FlyteDirectory(str(tiny_model), remote_directory=False),
        "tokens": FlyteDirectory(str(tokens), remote_directory=False),
        "tokenizer": FlyteDirectory(str(tiny_model), remote_directory=False),
        "end_token_ids": [1],
        "rewards": [],
        "reward_models": [],
        "training_tokens": [],
        "code_version": "",
        "gpus": 1,
        "parts": [],
    }
    pod = Pod(evaluate_task.evaluate, tmp_path, inputs, environment=FAST).start()
    found = seen_while_running([pod], lambda deck: "The last answers" in deck)
    assert "evaluate tuned: under way" in found and "exact match 0.0%" in found
    assert "32 of 32 rows" in found and re.search(r">prompt-\d+<", found)
    pod.wait()
    lines = [line for line in pod.log.splitlines() if line.startswith("evaluate tuned: ")]
    assert any(re.match(r"evaluate tuned: loss 32 rows in .* tokens/s", line) for line in lines), lines
    assert any(re.match(r"evaluate tuned: generate \d+/32 rows .* left", line) for line in lines), lines
    assert not any("prompt-" in line for line in lines)
    final = (tmp_path / "out-0" / "deck.html").read_text(encoding="utf-8")
    assert "Held-out scores of tuned" in final and "under way" not in final

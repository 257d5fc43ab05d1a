"""Killed runs of a model that processes divide: by the same number of processes to the same bytes, by another to the
same loss."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from support.killed_runs import METHODS, SETTINGS, Kill, Run, assert_little_is_repeated

DIVIDED = {
    f"{sharding} {method}": {"sharding": sharding} | METHODS[method]
    for sharding in ("fsdp_full_shard", "fsdp_shard_grad_op", "zero2", "zero3")
    for method in METHODS
} | {"tensor_parallel full": {"sharding": "tensor_parallel", "method": "full"}}


@pytest.mark.slow
@pytest.mark.parametrize("case", list(DIVIDED))
def test_a_divided_model_goes_on_too(case: str, inputs: dict[str, Any], tmp_path: Path) -> None:
    settings = SETTINGS | DIVIDED[case]
    undisturbed = Run(tmp_path / "undisturbed", settings, inputs, 2)
    assert undisturbed.start().exit_codes == [0, 0], undisturbed.log()
    killed = Run(tmp_path / "killed", settings, inputs, 2)
    reached = 0
    for kill in (Kill(1, "step", 5), Kill(0, "upload", 2), Kill(0, "manifest", 1), Kill(1, "pass", 13)):
        assert killed.start(kill).exit_codes[kill.rank] == -signal.SIGKILL, killed.log()
        reached = assert_little_is_repeated(killed, reached)
    made = killed.start()
    assert made.exit_codes == [0, 0], killed.log()
    assert_little_is_repeated(killed, reached)
    assert killed.weights == undisturbed.weights


@pytest.mark.slow
@pytest.mark.parametrize(
    ("sharding", "method", "before", "after"),
    [
        ("fsdp_full_shard", "full", 2, 3),
        ("fsdp_full_shard", "lora", 3, 2),
        ("zero1", "lora", 1, 2),
        ("zero2", "full", 2, 1),
        ("zero3", "full", 2, 3),
        ("zero3", "lora", 2, 1),
    ],
)
def test_a_divided_model_is_divided_anew(
    sharding: str, method: str, before: int, after: int, inputs: dict[str, Any], tmp_path: Path
) -> None:
    settings = SETTINGS | METHODS[method] | {"lora": {"rank": 4}, "logging_steps": 1, "sharding": sharding}
    settings |= {
        "weight_decay": 0.1,
        "batch_size": 12,
        "micro_batch_size": 1,
        "epochs": 30,
        "watch": {"evaluations": 0},
    }
    undisturbed = Run(tmp_path / "undisturbed", settings, inputs, before)
    assert undisturbed.start().exit_codes == [0] * before, undisturbed.log()
    moved = Run(tmp_path / "moved", settings, inputs, before)
    moved.start(Kill(before - 1, "step", 8))
    made = moved.start(processes=after)
    assert (made.first_step, made.exit_codes) == (7, [0] * after), moved.log()
    losses, wanted = ([point.loss for point in run.report.curve] for run in (moved, undisturbed))
    assert losses == pytest.approx(wanted, rel=1e-3)
    assert wanted[-1] < wanted[0] - 1.0 or method == "lora"


@pytest.mark.slow
@pytest.mark.parametrize(("sharding", "before", "after"), [("zero2", 2, 1), ("zero3", 1, 2), ("fsdp_full_shard", 2, 3)])
def test_the_best_weights_outlive_another_division(
    sharding: str, before: int, after: int, inputs: dict[str, Any], tmp_path: Path
) -> None:
    # a rate that rises for long and is then far too high: the first evaluation is the best
    settings = SETTINGS | {"method": "full", "sharding": sharding, "batch_size": 12, "micro_batch_size": 1}
    settings |= {"epochs": 16, "learning_rate": 5.0, "warmup_fraction": 0.9, "watch": {"spike_threshold": None}}
    settings["watch"] |= {"evaluations": 8}
    undisturbed = Run(tmp_path / "undisturbed", settings, inputs, before)
    assert undisturbed.start().exit_codes == [0] * before, undisturbed.log()
    best_step = undisturbed.report.best_step
    assert best_step is not None and best_step < 6
    moved = Run(tmp_path / "moved", settings, inputs, before)
    moved.start(Kill(before - 1, "step", 8))
    made = moved.start(processes=after)
    assert (made.first_step, made.exit_codes) == (7, [0] * after), moved.log()
    assert moved.report.best_step == best_step
    assert moved.weights == undisturbed.weights

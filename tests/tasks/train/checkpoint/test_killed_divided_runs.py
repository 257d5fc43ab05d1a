"""Killed runs of a sharded model: as many processes resume to the same bytes, another number to the same loss."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from support.killed_runs import METHODS, SETTINGS, Kill, Run, Undisturbed, assert_little_is_repeated

STEP, UPLOAD, MANIFEST, PASS = Kill(1, "step", 5), Kill(0, "upload", 2), Kill(0, "manifest", 1), Kill(1, "pass", 13)
# pairwise: each sharding with each moment, each method with each moment, each sharding with each method
KILLS: dict[tuple[str, str], list[Kill]] = {
    ("fsdp_full_shard", "full"): [STEP, MANIFEST],
    ("fsdp_full_shard", "lora"): [UPLOAD, PASS],
    ("fsdp_shard_grad_op", "full"): [UPLOAD, PASS],
    ("fsdp_shard_grad_op", "lora"): [STEP, MANIFEST],
    ("zero2", "full"): [STEP, PASS],
    ("zero2", "lora"): [UPLOAD, MANIFEST],
    ("zero3", "full"): [UPLOAD, MANIFEST],
    ("zero3", "lora"): [STEP, PASS],
    ("tensor_parallel", "full"): [STEP, UPLOAD, MANIFEST, PASS],
}


@pytest.mark.slow
@pytest.mark.parametrize(("sharding", "method"), list(KILLS))
def test_a_sharded_run_resumes_to_the_same_weights(
    sharding: str, method: str, inputs: dict[str, Any], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    settings = SETTINGS | METHODS[method] | {"sharding": sharding, "epochs": 5}
    expected = undisturbed(settings, inputs, 2)
    killed = Run(tmp_path / "killed", settings, inputs, 2)
    reached = 0
    for kill in KILLS[sharding, method]:
        assert killed.start(kill).exit_codes[kill.rank] == -signal.SIGKILL, killed.log()
        reached = assert_little_is_repeated(killed, reached)
    made = killed.start()
    assert made.exit_codes == [0, 0], killed.log()
    assert_little_is_repeated(killed, reached)
    assert killed.weights == expected.weights


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
def test_another_number_of_processes_resumes_a_sharded_run(
    sharding: str, method: str, before: int, after: int, inputs: dict[str, Any], strange: Path, tmp_path: Path
) -> None:
    settings = SETTINGS | METHODS[method] | {"lora": {"rank": 4}, "logging_steps": 1, "sharding": sharding}
    settings |= {"weight_decay": 0.1, "batch_size": 12, "epochs": 15, "watch": {"evaluations": 3}}
    inputs |= {"test_tokens": strange}
    undisturbed = Run(tmp_path / "undisturbed", settings, inputs, before)
    assert undisturbed.start().exit_codes == [0] * before, undisturbed.log()
    moved = Run(tmp_path / "moved", settings, inputs, before)
    moved.start(Kill(before - 1, "step", 8))
    made = moved.start(processes=after)
    assert (made.first_step, made.exit_codes) == (7, [0] * after), moved.log()
    losses, wanted = ([point.loss for point in run.report.curve] for run in (moved, undisturbed))
    assert losses == pytest.approx(wanted, rel=1e-3)
    if method == "full":
        assert wanted[-1] < wanted[0] - 1.0
        # the first evaluation is the best, and its weights outlive another division: an adapter learns too little
        assert moved.report.best_step == undisturbed.report.best_step == 5
        assert moved.weights == undisturbed.weights

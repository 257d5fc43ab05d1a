"""A step is the same however its batch is divided: loss and gradients of 1 and k passes, of 1 and 2 processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file
from support.training_steps import Step, Steps, assert_same_steps, seen_steps

from tasks.train.objectives import FORMS

POLICY = {"rewards": [{"kind": "regex", "pattern": "[a-m]"}], "max_new_tokens": 6, "num_generations": 2}
# max_grad_norm out of the way: clipping comes before gradients are looked at
COMMON = {
    "epochs": 1.0,
    "warmup_fraction": 0.0,
    "lr_scheduler": "constant",
    "max_grad_norm": 1e9,
    "learning_rate": 1e-4,
}
CASES: dict[str, dict[str, Any]] = {
    "sft": {"objective": "sft"},
    "sft lora": {"objective": "sft", "method": "lora"},
    "dpo": {"objective": "dpo"},
    "dpo lora": {"objective": "dpo", "method": "lora"},
    "dpo ipo": {"objective": "dpo", "dpo": {"loss": "ipo"}},
    "reward": {"objective": "reward", "reward": {"center_coefficient": 0.1}},
    "kto": {"objective": "kto", "kto": {"loss": "apo_zero_unpaired", "undesirable_weight": 2.0}},
    "rloo": {"objective": "rloo", "policy": POLICY},
    "grpo": {"objective": "grpo", "policy": POLICY},
}


def steps_of(train: Any, name: str, **settings: Any) -> Steps:
    with seen_steps(noise=0.05) as seen:
        train(name, **{**COMMON, **settings})
    return seen


# kto.loss=kto is left out: it estimates the KL divergence from the other rows of a pass, so that passes differ, and
# so are dpo.sft_weight and the aot losses, which are of the tokens, or of the order, of the rows of a pass
@pytest.mark.parametrize("case", CASES)
def test_accumulated_passes_make_the_step_of_one_pass(case: str, train: Any) -> None:
    whole = steps_of(train, "whole", **CASES[case])
    assert whole.steps
    assert all(max(gradient.abs().max() for gradient in step.gradients.values()) > 1e-4 for step in whole.steps)
    for micro in (2, 1):
        found = steps_of(train, f"by-{micro}", micro_batch_size=micro, **CASES[case])
        assert_same_steps(found, whole)


@pytest.mark.parametrize("objective", ["dpo", "reward"])
def test_without_weights_for_rows_the_last_step_would_depend_on_the_passes(
    objective: str, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FORMS, objective, replace(FORMS[objective], mean_over_rows=False))
    whole, found = (steps_of(train, f"by-{m}", micro_batch_size=m, objective=objective) for m in (4, 2))
    full_windows = [Steps(steps.steps[:2]) for steps in (found, whole)]
    # 4 + 4 rows in passes of 2 are weighted alike
    assert_same_steps(*full_windows)
    # 3 rows in passes of 2 and 1 are not
    with pytest.raises(AssertionError):
        assert_same_steps(Steps(found.steps[2:]), Steps(whole.steps[2:]))


def test_a_preferences_step_is_the_mean_of_its_rows_each_alone(train: Any) -> None:
    """Eleven steps of one row, with weights that stand still, against three steps of up to four rows."""
    still = {"learning_rate": 1e-30, "group_by_length": False, "objective": "dpo"}
    whole = steps_of(train, "whole", **still)
    alone = steps_of(train, "alone", batch_size=1, micro_batch_size=1, **still)
    rows = [row for step in whole.steps for row in step.rows]
    assert sorted(rows) == list(range(11))
    assert [row for step in alone.steps for row in step.rows] == rows
    assert [len(step.rows) for step in whole.steps] == [4, 4, 3]
    start = 0
    means = Steps()
    for step in whole.steps:
        parts = alone.steps[start : start + len(step.rows)]
        start += len(step.rows)
        gradients = {name: sum(part.gradients[name] for part in parts) / len(parts) for name in step.gradients}
        means.steps.append(Step(sum(part.loss for part in parts) / len(parts), gradients, step.rows))
    assert_same_steps(whole, means)


TWO_PROCESSES = """
import json, os, sys
from pathlib import Path
import torch
from support.training_steps import seen_steps
from configs.schema import ModelConfig, TrainConfig
from tasks.train import trainer as trainer_module
from tasks.train.fit import FitInputs, fit
cases, model, tokens, output = sys.argv[1:]
inputs = FitInputs(model=Path(model), train_tokens=Path(tokens), tokenizer=Path(model), end_token_ids=[1])
output, rank = Path(output), int(os.environ["RANK"])
fill = trainer_module.num_fill_rows
for name, settings in json.loads(cases).items():
    trainer_module.num_fill_rows = fill if settings.pop("fill", True) else lambda *_: 0
    with seen_steps(noise=0.05) as seen:
        report = fit(TrainConfig(**settings, processes_per_node=2), ModelConfig(name="tiny"), inputs, output / name)
    torch.save(
        {
            "losses": seen.losses,
            "rows": [step.rows for step in seen.steps],
            "gradients": [step.gradients for step in seen.steps],
            "curve": [point.loss for point in report.curve],
        },
        output / f"{name}.{rank}",
    )
"""
DIVIDED: dict[str, dict[str, Any]] = {
    "sft": {"objective": "sft", "micro_batch_size": 2},
    "sft-accumulated": {"objective": "sft", "micro_batch_size": 1},
    "dpo": {"objective": "dpo", "micro_batch_size": 2},
    "dpo-accumulated": {"objective": "dpo", "micro_batch_size": 1},
    "dpo-lora": {"objective": "dpo", "method": "lora", "micro_batch_size": 2},
    "reward": {"objective": "reward", "micro_batch_size": 1},
    "kto": {"objective": "kto", "kto": {"loss": "apo_zero_unpaired"}, "micro_batch_size": 2},
    "without-fill": {"objective": "dpo", "micro_batch_size": 1, "fill": False},
}


@pytest.fixture(scope="module")
def two_processes(tiny_model: Path, answers: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train every one of `DIVIDED` in the same two processes, which take longer to start than to train."""
    output = tmp_path_factory.mktemp("two-processes")
    script = output / "train.py"
    script.write_text(TWO_PROCESSES, encoding="utf-8")
    defaults = {**COMMON, "method": "full", "batch_size": 4, "logging_steps": 1}
    cases = json.dumps({name: {**defaults, **settings} for name, settings in DIVIDED.items()})
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(script)]
    result = subprocess.run(
        [*command, cases, *map(str, (tiny_model, answers, output))],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return output


def over_both(output: Path, name: str) -> tuple[Steps, list[list[float]]]:
    """Return the steps of both processes as one, and the logged losses of each."""
    one, other = (torch.load(output / f"{name}.{rank}") for rank in (0, 1))
    steps = Steps()
    for number, gradients in enumerate(one["gradients"]):
        loss = (one["losses"][number] + other["losses"][number]) / 2
        rows = one["rows"][number] + other["rows"][number]
        # rows that fill have no number
        steps.steps.append(Step(loss, gradients, [row for row in rows if row >= 0]))
        for key, gradient in other["gradients"][number].items():
            assert torch.equal(gradient, gradients[key])
    return steps, [one["curve"], other["curve"]]


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in DIVIDED if name != "without-fill"])
def test_two_processes_make_the_steps_of_one(name: str, two_processes: Path, train: Any) -> None:
    expected = steps_of(train, "one", **{**DIVIDED[name], "micro_batch_size": 4})
    found, curves = over_both(two_processes, name)
    assert_same_steps(found, expected)
    assert curves[0] == pytest.approx(expected.losses, rel=1e-5)
    # eleven rows in steps of 4, 4 and 3; nothing twice
    assert [sorted(step.rows) for step in found.steps] == [sorted(step.rows) for step in expected.steps]
    assert sorted(row for step in found.steps for row in step.rows) == list(range(11))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sft", "dpo"])
def test_two_processes_save_the_weights_of_one(name: str, two_processes: Path, train: Any) -> None:
    with seen_steps(noise=0.05):
        _, output = train("one", **{**COMMON, **DIVIDED[name], "micro_batch_size": 4})
    one, two = (load_file(path / "model.safetensors") for path in (output, two_processes / name))
    assert one.keys() == two.keys()
    for key, weight in one.items():
        torch.testing.assert_close(two[key], weight, atol=2e-6, rtol=1e-4, msg=key)


@pytest.mark.slow
def test_without_fill_two_processes_would_train_a_row_twice(two_processes: Path) -> None:
    found, _ = over_both(two_processes, "without-fill")
    assert len([row for step in found.steps for row in step.rows]) > 11

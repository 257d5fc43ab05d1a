"""Every field of `TrainConfig` changes what it says: none is validated, documented and read by nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from conftest import ROOT
from safetensors.torch import load_file

from configs.schema import ModelConfig
from configs.schema.section import Section
from configs.schema.train import TrainConfig
from configs.wire import TrainReport
from tasks.train.fit import FitInputs, fit

Weights = dict[str, torch.Tensor]
REWARDS = {"rewards": [{"kind": "regex", "pattern": "[a-m]"}], "max_new_tokens": 6, "num_generations": 2}
BASES: dict[str, dict[str, Any]] = {
    "sft": {"warmup_fraction": 0.0},
    "rare": {"max_steps": 6, "watch": {"evaluations": 3}},
    # the held-out answers are others, so that learning these by heart raises their loss
    "overfit": {"max_steps": 24, "learning_rate": 2e-2, "watch": {"evaluations": 6}},
    "lora": {"method": "lora", "lora": {"rank": 2, "alpha": 2, "target_modules": ["q_proj"]}},
    "prompt": {"method": "prompt_tuning", "prompt": {"num_virtual_tokens": 4}},
    "rloo": {"objective": "rloo", "batch_size": 8, "max_steps": 2, "policy": REWARDS},
}
# where: base, other value, and what of the outcome is another
CHANGES: dict[str, tuple[str, Any, str]] = {
    "objective": ("sft", "dpo", "weights"),
    "method": ("sft", "lora", "trainable"),
    "lora.rank": ("lora", 4, "trainable"),
    "lora.alpha": ("lora", 8, "weights"),
    "lora.dropout": ("lora", 0.5, "weights"),
    "lora.target_modules": ("lora", ["q_proj", "v_proj"], "trainable"),
    "lora.use_rslora": ("lora", True, "weights"),
    "lora.use_dora": ("lora", True, "trainable"),
    "prompt.num_virtual_tokens": ("prompt", 5, "trainable"),
    "prompt.init_text": ("prompt", "What is the sum?", "weights"),
    "policy.num_generations": ("rloo", 4, "weights"),
    "policy.max_new_tokens": ("rloo", 3, "lengths"),
    "policy.temperature": ("rloo", 0.2, "weights"),
    "policy.top_p": ("rloo", 0.2, "weights"),
    "policy.num_iterations": ("rloo", 2, "weights"),
    "epochs": ("sft", 2.0, "steps"),
    "max_steps": ("sft", 2, "steps"),
    "batch_size": ("sft", 8, "steps"),
    "learning_rate": ("sft", 1e-2, "weights"),
    "lr_scheduler": ("sft", "constant", "weights"),
    "warmup_fraction": ("sft", 0.9, "weights"),
    "weight_decay": ("sft", 0.5, "weights"),
    "max_grad_norm": ("sft", 1e-3, "weights"),
    "group_by_length": ("sft", False, "weights"),
    "seed": ("sft", 1, "weights"),
    "logging_steps": ("sft", 3, "points"),
    "efficiency.precision": ("sft", "bfloat16", "choices"),
    "efficiency.gradient_checkpointing": ("sft", "on", "choices"),
    "efficiency.optimizer": ("sft", "adamw_8bit", "choices"),
    "efficiency.kernels": ("sft", "off", "choices"),
    "efficiency.activation_offload": ("sft", True, "choices"),
    "watch.evaluations": ("rare", 2, "evaluations"),
    "watch.early_stopping": ("overfit", 2, "steps"),
    "watch.keep": ("overfit", "last", "weights"),
}
PODS = (
    "gpu",
    "cpus_per_process",
    "memory_gib_per_process",
    "shared_memory_gib",
    "disk_gib",
    "node_selectors",
    "interruptible",
    "retries",
)
# fields whose effect, and often its size, is shown by other tests
ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("dpo.beta", "dpo.loss", "dpo.label_smoothing", "dpo.sft_weight"), "tasks/train/test_formulas.py"),
    **dict.fromkeys(("kto.beta", "kto.loss"), "tasks/train/test_formulas.py"),
    **dict.fromkeys(("kto.desirable_weight", "kto.undesirable_weight"), "tasks/train/test_formulas.py"),
    "reward.center_coefficient": "tasks/train/test_formulas.py",
    **dict.fromkeys(("policy.rewards", "policy.kl_coefficient"), "tasks/train/test_formulas.py"),
    # the number of passes, which is to change nothing else
    "micro_batch_size": "tasks/train/test_batch_equality.py",
    # compiling takes longer than all others together
    "efficiency.compile": "tasks/train/test_choices.py",
    "watch.spike_threshold": "tasks/train/watch/test_watch.py",
    **dict.fromkeys(("watch.measures", "watch.measured_rows", "watch.best_by"), "tasks/train/watch/test_measures.py"),
    **dict.fromkeys(("sharding", "processes_per_node"), "workflows/test_sharding.py"),
    **dict.fromkeys(("deepspeed.offload", "deepspeed.config"), "tasks/train/test_sharding.py"),
    **dict.fromkeys(("fsdp.wrap", "fsdp.min_parameters"), "tasks/train/test_sharding.py"),
    "nodes": "workflows/test_elastic.py",
    **dict.fromkeys(
        ("checkpoint.every_minutes", "checkpoint.every_steps"), "tasks/train/checkpoint/test_killed_runs.py"
    ),
    "checkpoint.keep": "tasks/train/checkpoint/test_checkpoints.py",
    **{f"cluster.{name}": "workflows/test_elastic.py" for name in PODS},
    **dict.fromkeys(("cluster.max_restarts", "cluster.join_timeout_seconds"), "tasks/runtime/test_elastic.py"),
    "cluster.collective_timeout_seconds": "tasks/train/test_sharding_words.py",
    **{
        f"tracking.{name}": "tasks/train/watch/test_tracking.py"
        for name in ("tracker", "project", "run_name", "tags", "address", "entity", "folder")
    },
    "cluster.gpus_per_process": "tasks/train/test_sharding_words.py",
}


def field_names(section: type[Section], prefix: str = "") -> list[str]:
    names = []
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            names += field_names(type(field.default), f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names


def test_no_field_is_left_out() -> None:
    assert sorted([*CHANGES, *ELSEWHERE]) == sorted(field_names(TrainConfig))
    for name, file in ELSEWHERE.items():
        assert name.rpartition(".")[2] in (ROOT / "tests" / file).read_text(encoding="utf-8"), name


@dataclass(frozen=True)
class Outcome:
    """What a run left: its report, and what it saved."""

    report: TrainReport
    weights: Weights

    def part(self, name: str) -> Any:
        report = self.report
        parts: dict[str, Callable[[], Any]] = {
            "steps": lambda: report.steps,
            "trainable": lambda: report.trainable_parameters,
            "points": lambda: [point.step for point in report.curve],
            "choices": lambda: {line.name: (line.value, line.reason) for line in report.choices},
            "evaluations": lambda: [series.steps for series in report.series if series.name == "eval_loss"],
            "lengths": lambda: [series.values for series in report.series if series.name == "completions/mean_length"],
        }
        return parts[name]()


@pytest.fixture(scope="module")
def outcome(tiny_model: Path, answers: Path, tmp_path_factory: pytest.TempPathFactory):
    """Return a function that trains with some settings, once for all tests."""
    known: dict[str, Outcome] = {}
    held_out = tmp_path_factory.mktemp("held-out")
    table = pd.read_parquet(answers / "tokens.parquet")
    prompts = [row.input_ids[: row.prompt_length].tolist() for row in table.itertuples()]
    others = [row.rejected_ids.tolist() for row in table.itertuples()]
    table["input_ids"] = [prompt + other for prompt, other in zip(prompts, others, strict=True)]
    table["labels"] = [[-100] * len(prompt) + other for prompt, other in zip(prompts, others, strict=True)]
    table.to_parquet(held_out / "tokens.parquet")

    def trained(settings: dict[str, Any]) -> Outcome:
        key = json.dumps(settings, sort_keys=True)
        if key not in known:
            is_watched = "watch" in settings
            inputs = FitInputs(
                model=tiny_model,
                train_tokens=answers,
                tokenizer=tiny_model,
                end_token_ids=[1],
                test_tokens=held_out if is_watched else None,
            )
            output = tmp_path_factory.mktemp("out")
            defaults = {"method": "full", "batch_size": 4, "micro_batch_size": 4, "learning_rate": 2e-3}
            report = fit(TrainConfig(**{**defaults, **settings}), ModelConfig(name="tiny"), inputs, output)
            (file,) = output.glob("*.safetensors")
            known[key] = Outcome(report, load_file(file))
        return known[key]

    return trained


def changed(settings: dict[str, Any], name: str, value: Any) -> dict[str, Any]:
    section, _, field = name.rpartition(".")
    return {**settings, section: {**settings.get(section, {}), field: value}} if section else {**settings, name: value}


@pytest.mark.parametrize("name", CHANGES)
def test_each_setting_has_an_effect(name: str, outcome: Callable[[dict[str, Any]], Outcome]) -> None:
    base, value, seen = CHANGES[name]
    before, after = outcome(BASES[base]), outcome(changed(BASES[base], name, value))
    if seen == "weights":
        assert before.weights.keys() == after.weights.keys()
        assert not all(torch.equal(before.weights[key], after.weights[key]) for key in before.weights)
    else:
        assert before.part(seen) != after.part(seen)
        assert before.part(seen) not in ([], {})


def test_the_same_settings_give_the_same_weights(outcome: Callable[[dict[str, Any]], Outcome]) -> None:
    """Without this, another weight would be no sign of an effect."""
    for base in BASES:
        # a section that is spelled out, and so is run anew
        again = outcome({**BASES[base], "kto": {}})
        weights = outcome(BASES[base]).weights
        assert all(torch.equal(weights[key], again.weights[key]) for key in weights), base

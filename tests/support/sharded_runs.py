"""Trains the cases it is given, one after the other, in this process of several (tests/tasks/train/test_sharding.py).

Starting processes takes longer than training: so one start serves many cases, and accelerate is told each time that it
has never been used.
"""

from __future__ import annotations

import dataclasses
import gc
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from accelerate.state import AcceleratorState, GradientState
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from configs.schema import ModelConfig, TrainConfig
from tasks.train import choices as choosing
from tasks.train import fit as fit_module
from tasks.train.fit import FitInputs, fit

DEFAULTS: dict[str, Any] = {
    "method": "full",
    "batch_size": 4,
    "micro_batch_size": 1,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "lr_scheduler": "constant",
    "warmup_fraction": 0.0,
    "watch": {"evaluations": 0},
}


def forget() -> None:
    """Make accelerate and DeepSpeed as they are in a new process."""
    gc.collect()
    AcceleratorState._reset_state(True)
    GradientState._reset_state()
    unset_hf_deepspeed_config()
    for name in [name for name in os.environ if name.startswith(("ACCELERATE_", "FSDP_", "PARALLELISM_"))]:
        del os.environ[name]


def held(tensors: Any) -> int:
    """Return how many numbers this process has of tensors that may be divided."""
    return sum(
        tensor.to_local().numel() if isinstance(tensor, DTensor) else getattr(tensor, "ds_tensor", tensor).numel()
        for tensor in tensors
    )


class Seen:
    """What one case showed of how its model was divided."""

    def __init__(self) -> None:
        self.parameters_held = self.states_held = 0

    def save(self, trainer: Any, *arguments: Any) -> None:
        self.parameters_held = held(trainer.model.parameters())
        optimizer = getattr(trainer.model_wrapped, "optimizer", None) or trainer.optimizer
        while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        self.states_held = held(state["exp_avg"] for state in optimizer.state.values() if "exp_avg" in state)
        save(trainer, *arguments)


def without_its_neighbours(self: DistributedDataParallel, *arguments: Any, **kwargs: Any) -> Any:
    """A DDP that does not average gradients: what a wrong division looks like."""
    self.require_backward_grad_sync = False
    return forward(self, *arguments, **kwargs)


forward, save = DistributedDataParallel.forward, fit_module.save_whole


def run(name: str, settings: dict[str, Any], model: Path, tokens: Path, output: Path) -> None:
    """Train one case and leave what this process saw of it in `output`/`name`.`rank`.json."""
    forget()
    settings = {"processes_per_node": int(os.environ["WORLD_SIZE"]), **DEFAULTS, **settings}
    inputs = FitInputs(
        model=model,
        train_tokens=tokens,
        tokenizer=model,
        end_token_ids=[1],
        test_tokens=tokens if settings["watch"]["evaluations"] else None,
        deepspeed_json=settings.pop("deepspeed_json", ""),
    )
    detected = choosing.detect()
    hardware = dataclasses.replace(detected, device=dataclasses.replace(detected.device, has_bfloat16=True))
    seen = Seen()
    is_averaged = settings.pop("averaged", True)
    with (
        patch.object(DistributedDataParallel, "forward", forward if is_averaged else without_its_neighbours),
        patch.object(fit_module, "save_whole", seen.save),
        # a CPU that emulates bfloat16 computes the same
        patch.object(choosing, "detect", lambda: hardware),
    ):
        report = fit(TrainConfig(**settings), ModelConfig(name="tiny"), inputs, output / name)
    record = {
        "losses": [point.loss for point in report.curve],
        "norms": [point.grad_norm for point in report.curve],
        "held_out": [value for series in report.series if series.name == "eval_loss" for value in series.values],
        "best_step": report.best_step,
        "parameters": report.parameters,
        "trainable": report.trainable_parameters,
        "parameters_held": seen.parameters_held,
        "states_held": seen.states_held,
        "choices": {line.name: line.value for line in report.choices},
    }
    (output / f"{name}.{os.environ['RANK']}.json").write_text(json.dumps(record), encoding="utf-8")


def run_all(cases: dict[str, dict[str, Any]], model: str, tokens: str, output: str) -> None:
    """Train all cases."""
    for case, its_settings in cases.items():
        run(case, its_settings, Path(model), Path(tokens), Path(output))

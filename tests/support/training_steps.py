"""What each optimizer step of `fit` saw: its loss, every parameter's gradient, and the rows that it was made of."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

import pytest
import torch

from tasks.train import trainer as trainer_module
from tasks.train.seams import Watched
from tasks.train.watch.progress import Progress

RELATIVE_TOLERANCE = 1e-5


@dataclass
class Step:
    """One optimizer step: the sum of what its passes added, and the gradients just before the weights change."""

    loss: float
    gradients: dict[str, torch.Tensor]
    rows: list[int]


@dataclass
class Steps:
    """All steps of a run, and the weights as they were before the first."""

    steps: list[Step] = field(default_factory=list)
    weights: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def losses(self) -> list[float]:
        return [step.loss for step in self.steps]


@contextmanager
def seen_steps(noise: float = 0.0) -> Iterator[Steps]:
    """Yield what one run of `fit` inside the block sees, on this process.

    `noise` is the standard deviation of what is added to every trained weight before the first step, so that the policy
    is not its own reference: a preference's loss is then log 2 whatever the formula is.
    """
    seen = Steps()
    passes: list[tuple[float, list[int]]] = []
    train_on_pass = Watched.training_step

    class Catching(Progress):
        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            super().on_train_begin(args, state, control, **kwargs)
            model = kwargs["model"]
            generator = torch.Generator().manual_seed(7)
            with torch.no_grad():
                for parameter in model.parameters():
                    if noise and parameter.requires_grad:
                        parameter += noise * torch.randn(parameter.shape, generator=generator)
            seen.weights = {name: weight.clone() for name, weight in model.state_dict().items()}

        def on_pre_optimizer_step(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
            gradients = {
                name.removeprefix("module."): parameter.grad.clone()
                for name, parameter in model.named_parameters()
                if parameter.requires_grad
            }
            rows = [row for _, numbers in passes for row in numbers]
            seen.steps.append(Step(sum(loss for loss, _ in passes), gradients, rows))
            passes.clear()

    def train_and_note(self: Any, model: Any, inputs: Any, *arguments: Any, **kwargs: Any) -> torch.Tensor:
        rows = [row["row_number"] for row in inputs] if isinstance(inputs, list) else inputs["row_numbers"].tolist()
        loss = train_on_pass(self, model, inputs, *arguments, **kwargs)
        passes.append((loss.item(), rows))
        return loss

    with patch.object(trainer_module, "Progress", Catching), patch.object(Watched, "training_step", train_and_note):
        yield seen


def assert_same_steps(found: Steps, expected: Steps) -> None:
    """Compare loss and every gradient of every step; how far gradients may be apart is relative to their length."""
    assert len(found.steps) == len(expected.steps)
    assert found.losses == pytest.approx(expected.losses, rel=RELATIVE_TOLERANCE, abs=1e-7)
    for number, (one, other) in enumerate(zip(found.steps, expected.steps, strict=True), 1):
        assert one.gradients.keys() == other.gradients.keys()
        for name, gradient in other.gradients.items():
            length, distance = float(gradient.norm()), float((one.gradients[name] - gradient).norm())
            assert distance <= RELATIVE_TOLERANCE * length + 1e-8, f"step {number}, {name}: {distance} of {length}"

"""The report of a training: its curves and facts, while it runs and at its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedModel, TrainerState, TrainingArguments

from configs.schema.train import TrainConfig
from configs.wire import Choice, CurvePoint, TrainReport
from tasks.train.arguments import learning_rate, world_size
from tasks.train.watch.diagnose import series_of
from tasks.train.watch.held_out import keys_of


def report_of(
    config: TrainConfig,
    arguments: TrainingArguments,
    state: TrainerState,
    model: PreTrainedModel,
    seconds: float,
    choices: Sequence[Choice] = (),
) -> TrainReport:
    """Return the report of a run from its trainer's state now, without findings; `seconds` is its time so far."""
    history = state.log_history
    parameters = [
        # under ZeRO 3 a parameter's own size is that of its shard
        (getattr(parameter, "ds_numel", parameter.numel()), parameter.requires_grad)
        for parameter in model.parameters()
    ]
    return TrainReport(
        objective=config.objective,
        method=config.method,
        curve=_curve_of(history),
        series=series_of(history, keys_of(config)),
        choices=list(choices),
        best_step=state.best_global_step if state.best_model_checkpoint else None,
        steps=state.global_step,
        epochs=state.epoch or 0.0,
        seconds=seconds,
        parameters=sum(size for size, _ in parameters),
        trainable_parameters=sum(size for size, trained in parameters if trained),
        world_size=world_size(),
        batch_size=config.batch_size,
        learning_rate=learning_rate(config),
        device=arguments.device.type,
        precision="bfloat16" if arguments.bf16 else "float32",
        peak_memory_bytes=torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
    )


def _curve_of(history: Sequence[dict[str, Any]]) -> list[CurvePoint]:
    return [
        CurvePoint(
            step=entry["step"],
            loss=entry["loss"],
            learning_rate=entry.get("learning_rate", 0.0),
            grad_norm=float(entry.get("grad_norm") or 0.0),
        )
        for entry in history
        if "loss" in entry
    ]

"""Converts DeepSpeed's checkpoints, which hold one shard per process, for another number of processes.

DeepSpeed's own converter writes whole tensors (universal checkpointing, https://arxiv.org/abs/2406.18820), from which
any number of processes can read its shards.
"""

from __future__ import annotations

import argparse
import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

_LATEST, _LATEST_UNIVERSAL = "latest", "latest_universal"


def to_universal(directory: Path) -> None:
    """Convert DeepSpeed's checkpoint in `directory`, which must hold the files of all machines that wrote it."""
    from deepspeed.checkpoint import ds_to_universal

    tag = (directory / _LATEST).read_text(encoding="utf-8").strip()
    arguments = argparse.Namespace(
        input_folder=str(directory / tag),
        output_folder=str(directory / f"{tag}_universal"),
        # more workers would be processes that import everything again
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=True,
    )
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        ds_to_universal.main(arguments)
    (directory / _LATEST_UNIVERSAL).write_text(f"{tag}_universal", encoding="utf-8")


def load_universal(trainer: Any) -> None:
    """Make DeepSpeed read a converted checkpoint. Call this before training, which prepares the model."""
    trainer.accelerator.state.deepspeed_plugin.deepspeed_config["checkpoint"] = {"load_universal": True}
    trainer.add_callback(_OptimizerRepair())


def set_format_of_best(trainer: Any) -> None:
    """Tell DeepSpeed's engine, if there is one, whether the best weights are in the converted format."""
    engine: Any = getattr(trainer.model_wrapped, "_config", None)
    if hasattr(engine, "load_universal_checkpoint"):
        best = Path(trainer.state.best_model_checkpoint)
        engine.load_universal_checkpoint = (best / _LATEST_UNIVERSAL).exists()


def without_tied_weights(model: Any, load_result: Any) -> Any:
    """Return torch's result of loading a state without the tied weights of `model` among those that are missing."""
    tied = getattr(model, "all_tied_weights_keys", {})
    missing = [name for name in load_result.missing_keys if name not in tied]
    return type(load_result)(missing, load_result.unexpected_keys)


class _OptimizerRepair(TrainerCallback):
    """Repairs the optimizer after DeepSpeed 0.19 has read a converted checkpoint under ZeRO 3.

    DeepSpeed gives all parameter groups the same step counter, which then counts once per group, and the settings of
    the first group, weight decay too.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        optimizer = kwargs["optimizer"]
        while hasattr(optimizer, "optimizer"):
            optimizer = optimizer.optimizer
        for values in optimizer.state.values():
            if torch.is_tensor(values.get("step")):
                values["step"] = values["step"].clone()
        if len(optimizer.param_groups) > 1:
            # transformers' second group is biases and norms, which do not decay
            optimizer.param_groups[1]["weight_decay"] = 0.0

"""TRL's arguments from the config: the one place where names and units are translated."""

from __future__ import annotations

import math
import os
from pathlib import Path

import torch
from trl import SFTConfig

from configs.errors import ConfigError
from configs.schema import TrainConfig
from tasks.models.load import has_bfloat16

DEEPSPEED_CONFIGS = Path(__file__).parent.parent.parent / "configs" / "deepspeed"
_SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_CURVE_POINTS = 50
_DEFAULT_LEARNING_RATE = {"full": 2e-5, "lora": 2e-4, "qlora": 2e-4}


def world_size() -> int:
    """Return the number of training processes, as torch elastic set it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def learning_rate(config: TrainConfig) -> float:
    """Return the configured peak learning rate, or the method's default."""
    return config.learning_rate or _DEFAULT_LEARNING_RATE[config.method]


def accumulation_steps(config: TrainConfig) -> int:
    """Return the forward passes per optimizer step and process: batch / (micro-batch x processes).

    Raises:
        ConfigError: the batch does not divide evenly, as when the number of processes is not the planned one.
    """
    rows_per_pass = config.micro_batch_size * world_size()
    if config.batch_size % rows_per_pass:
        raise ConfigError(
            f"train.batch_size={config.batch_size} is not a multiple of micro_batch_size x processes = {rows_per_pass}"
        )
    return config.batch_size // rows_per_pass


def optimizer_steps(config: TrainConfig, num_rows: int) -> int:
    """Return the optimizer steps of the run: `max_steps`, or `epochs` passes of rows / batch size, rounded up."""
    return config.max_steps or max(1, math.ceil(config.epochs * math.ceil(num_rows / config.batch_size)))


def training_arguments(config: TrainConfig, num_rows: int, directory: Path) -> SFTConfig:
    """Return TRL's arguments. Must be made before the model is loaded: under ZeRO 3 it decides how.

    Lengths, template and masks were settled by the tokenize stage, so that TRL's own preparation is off.
    """
    steps = optimizer_steps(config, num_rows)
    on_gpu = torch.cuda.is_available()
    return SFTConfig(
        output_dir=str(directory),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.micro_batch_size,
        gradient_accumulation_steps=accumulation_steps(config),
        learning_rate=learning_rate(config),
        lr_scheduler_type=_SCHEDULERS[config.lr_scheduler],
        # in whole steps, rounded down: a first step of warm-up has a rate of 0, which a short run cannot spare
        warmup_steps=int(config.warmup_fraction * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim="adamw_torch_fused" if config.sharding == "none" else "adamw_torch",
        bf16=has_bfloat16(),
        use_cpu=not on_gpu,
        ddp_backend="gloo" if world_size() > 1 and not on_gpu else None,
        ddp_find_unused_parameters=False,
        activation_checkpointing=config.gradient_checkpointing,
        deepspeed=None if config.sharding == "none" else str(DEEPSPEED_CONFIGS / f"{config.sharding}.json"),
        train_sampling_strategy="group_by_length" if config.group_by_length else "random",
        logging_steps=config.logging_steps or max(1, steps // _CURVE_POINTS),
        logging_first_step=True,
        # the default shows a loss of NaN as 0
        logging_nan_inf_filter=False,
        # checkpoints belong to the training-state work; the model is saved once, at the end
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        seed=config.seed,
        data_seed=config.seed,
        max_length=None,
        packing=False,
        # `fit` reads no other columns, and TRL would take position_ids for one that is not needed
        remove_unused_columns=False,
        dataset_kwargs={"skip_prepare_dataset": True},
    )

"""TRL's arguments, made from the config: the only place that translates names and units."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from configs.effective import training as effective
from configs.effective.batches import accumulation
from configs.errors import ConfigError
from configs.objectives import OBJECTIVES, ONLINE, Objective
from configs.schema.train import PROMPT_METHODS, TrainConfig
from tasks.train.choices import Choices
from tasks.train.objectives import FORMS
from tasks.train.sharding import data_parallel_size, sharding_arguments
from tasks.train.sharding import world_size as world_size

_SCHEDULERS = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
_CURVE_POINTS = 50


def learning_rate(config: TrainConfig) -> float:
    """Return the configured peak learning rate, or the default for the objective and the method."""
    if config.learning_rate is not None:
        return config.learning_rate
    rates = OBJECTIVES[config.objective].learning_rates
    if config.method in PROMPT_METHODS:
        return rates.virtual_tokens
    return rates.full if config.method == "full" else rates.adapter


def optimizer_steps(config: TrainConfig, num_rows: int) -> int:
    """Return the optimizer steps of the run on `num_rows` rows; see `configs.effective.training.optimizer_steps`.

    Raises:
        ConfigError: rloo or grpo has fewer prompts than one batch needs.
    """
    if config.objective not in ONLINE:
        return effective.optimizer_steps(config, num_rows)
    prompts = config.batch_size // config.policy.num_generations
    if num_rows < prompts:
        raise ConfigError(
            f"train.batch_size={config.batch_size} answers with policy.num_generations={config.policy.num_generations} "
            f"needs {prompts} prompts, and there are {num_rows} training rows; lower train.batch_size"
        )
    return effective.optimizer_steps(config, num_rows)


def prompts_left_out(config: TrainConfig, num_rows: int) -> int:
    """Return how many prompts an epoch of rloo or grpo leaves out: those of its last, incomplete batch."""
    if config.objective not in ONLINE:
        return 0
    return num_rows % (config.batch_size // config.policy.num_generations)


def training_arguments(
    config: TrainConfig,
    choices: Choices,
    num_rows: int,
    directory: Path,
    evaluation: dict[str, Any],
    deepspeed_json: str = "",
) -> TrainingArguments:
    """Return the arguments of the objective's TRL trainer.

    Call this before the model is loaded: under ZeRO 3 the arguments decide how it is loaded. `evaluation` holds the
    arguments for evaluating and keeping weights during training; `deepspeed_json` is the content of the user's own
    DeepSpeed file, if there is one.

    transformers recomputes activations, under FSDP too: FSDP's own recomputation hides a layer's adapter from peft,
    which then saves empty adapters, and it does not gather less.

    TRL's own preparation of rows is off: the tokenize stage has set lengths, template and masks.
    """
    steps = optimizer_steps(config, num_rows)
    on_gpu = torch.cuda.is_available()
    specific = _OF_OBJECTIVE[config.objective](config)
    if config.objective not in ONLINE:
        # RLOO and GRPO have no such argument
        specific["activation_offloading"] = choices.activation_offloading
        specific["max_length"] = None
    return FORMS[config.objective].arguments(
        output_dir=str(directory),
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.micro_batch,
        per_device_eval_batch_size=config.micro_batch,
        gradient_accumulation_steps=accumulation(config, data_parallel_size(config)),
        learning_rate=learning_rate(config),
        lr_scheduler_type=_SCHEDULERS[config.lr_scheduler],
        # rounded down: the first warm-up step has a rate of 0, and a short run has no step to spare
        warmup_steps=int(config.warmup_fraction * steps),
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        optim=choices.optim,
        bf16=choices.bf16,
        use_cpu=not on_gpu,
        ddp_backend="gloo" if world_size() > 1 and not on_gpu else None,
        ddp_find_unused_parameters=False,
        activation_checkpointing=choices.gradient_checkpointing,
        use_liger_kernel=choices.use_liger_kernel,
        liger_kernel_config=choices.liger_kernel_config,
        torch_compile=choices.torch_compile,
        logging_steps=config.logging_steps or max(1, steps // _CURVE_POINTS),
        logging_first_step=True,
        # by default a loss of NaN is logged as 0
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=on_gpu,
        seed=config.seed,
        data_seed=config.seed,
        # our collators ignore other columns, and TRL would remove position_ids as unused
        remove_unused_columns=False,
        **sharding_arguments(config, deepspeed_json),
        **{"save_strategy": "no", **evaluation},
        **specific,
    )


def _supervised(config: TrainConfig) -> dict[str, Any]:
    return {"packing": False, "dataset_kwargs": {"skip_prepare_dataset": True}}


def _dpo(config: TrainConfig) -> dict[str, Any]:
    with_sft = config.dpo.sft_weight > 0
    return {
        "beta": config.dpo.beta,
        "loss_type": [config.dpo.loss, *(["sft"] if with_sft else [])],
        "loss_weights": [1.0, config.dpo.sft_weight] if with_sft else None,
        "label_smoothing": config.dpo.label_smoothing,
    }


def _kto(config: TrainConfig) -> dict[str, Any]:
    return {
        "beta": config.kto.beta,
        "loss_type": config.kto.loss,
        "desirable_weight": config.kto.desirable_weight,
        "undesirable_weight": config.kto.undesirable_weight,
    }


def _reward(config: TrainConfig) -> dict[str, Any]:
    return {"center_rewards_coefficient": config.reward.center_coefficient}


def _policy(config: TrainConfig) -> dict[str, Any]:
    return {
        "beta": config.policy.kl_coefficient,
        "num_generations": config.policy.num_generations,
        "num_generations_eval": 1,
        "max_completion_length": config.policy.max_new_tokens,
        "temperature": config.policy.temperature,
        "top_p": config.policy.top_p,
        "num_iterations": config.policy.num_iterations,
        "log_completions": False,
    }


_OF_OBJECTIVE: dict[Objective, Callable[[TrainConfig], dict[str, Any]]] = {
    "sft": _supervised,
    "cpt": _supervised,
    "dpo": _dpo,
    "kto": _kto,
    "reward": _reward,
    "rloo": _policy,
    "grpo": _policy,
}
"""The arguments that an objective has beside those of all trainings."""

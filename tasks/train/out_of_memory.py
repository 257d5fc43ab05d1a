"""After memory ran out, one more attempt with half the micro-batch and twice the accumulation: the same training.

A note in the checkpoint store tells the next attempt, on whichever machine, which micro-batch did not fit.
"""

from __future__ import annotations

import json

from configs.effective.batches import fewest_rows, fitting_micro_batch
from configs.effective.training import gradient_checkpointing
from configs.errors import ConfigError, FineTuneError, RetryError
from configs.schema.train import TrainConfig
from configs.wire import Choice
from tasks.models.this_device import this_device
from tasks.train.checkpoint.store import Store

NOTE_FILE = "out-of-memory.json"


def noted_micro_batch(stores: list[Store]) -> int | None:
    """Return the micro-batch that did not fit in an earlier attempt, from the newest of `stores` with a note of it."""
    for store in stores:
        text = store.read_text(NOTE_FILE)
        if text is not None:
            return int(json.loads(text)["micro_batch_size"])
    return None


def fit_micro_batch(
    config: TrainConfig, data_parallel_size: int, noted: int | None
) -> tuple[TrainConfig, list[Choice]]:
    """Return `config` with the micro-batch to train with, and a line for the report if it is not the config's own.

    `noted` is the micro-batch that did not fit before. The batch of an optimizer step never changes.

    Raises:
        ConfigError: the batch does not divide by the number of processes.
    """
    largest = config.micro_batch
    if noted is not None:
        largest = min(largest, max(noted // 2, fewest_rows(config)))
    rows = fitting_micro_batch(config.model_copy(update={"micro_batch_size": largest}), data_parallel_size)
    if rows == config.micro_batch:
        return config, []
    why = f"out of memory with {noted}" if noted is not None else f"divides the batch among {data_parallel_size}"
    reason = f"{why}; the batch of {config.batch_size} rows is the same"
    return config.model_copy(update={"micro_batch_size": rows}), [
        Choice(name="micro-batch", value=str(rows), reason=reason)
    ]


def out_of_memory(
    config: TrainConfig, data_parallel_size: int, noted: int | None, store: Store | None
) -> FineTuneError:
    """Return the error for memory that ran out with `config`; note it in `store` if another attempt can help.

    The error is a RetryError the first time, if there is a smaller micro-batch to train with; otherwise a ConfigError.
    """
    rows = config.micro_batch
    smaller = _smaller(config, data_parallel_size)
    if noted is None and smaller is not None and store is not None:
        store.write_text(NOTE_FILE, json.dumps({"micro_batch_size": rows}))
        more = "twice the" if 2 * smaller == rows else "more"
        return RetryError(
            f"out of memory with train.micro_batch_size={rows}; trying again with {smaller} and {more} accumulation, "
            "the same batch"
        )
    before = f", after {noted}" if noted is not None else ""
    return ConfigError(f"out of memory with train.micro_batch_size={rows}{before}\n{_advice(config, smaller)}")


def _smaller(config: TrainConfig, data_parallel_size: int) -> int | None:
    if config.micro_batch // 2 < fewest_rows(config):
        return None
    half = config.model_copy(update={"micro_batch_size": config.micro_batch // 2})
    try:
        return fitting_micro_batch(half, data_parallel_size)
    except ConfigError:
        return None


def _could_recompute(config: TrainConfig) -> bool:
    """Return whether gradient checkpointing is off, and would be on if it were asked for."""
    asked = config.efficiency.model_copy(update={"gradient_checkpointing": "on"})
    device = this_device()
    is_possible = gradient_checkpointing(config.model_copy(update={"efficiency": asked}), device).value
    return is_possible and not gradient_checkpointing(config, device).value


def _advice(config: TrainConfig, smaller: int | None) -> str:
    """Return settings that take less memory than the config's, the most effective first."""
    ideas = []
    if smaller is not None:
        ideas.append(f"train.micro_batch_size={smaller}")
    if _could_recompute(config):
        ideas.append("train.efficiency.gradient_checkpointing=on")
    if config.method == "full":
        ideas.append("train.method=lora or qlora")
    elif config.method == "lora":
        ideas.append("train.method=qlora")
    if config.sharding in ("none", "zero1", "zero2") and config.method not in ("qlora", "lora_8bit"):
        ideas.append("train.sharding=zero3 over more processes")
    elif config.sharding == "zero3" and config.deepspeed.offload == "none":
        ideas.append("train.deepspeed.offload=optimizer")
    return "try " + ", ".join([*ideas, "a lower tokenize.max_length"])

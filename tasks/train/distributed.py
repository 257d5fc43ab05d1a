"""What a training process knows of the others."""

from __future__ import annotations

import os
from typing import Any

import torch.distributed as dist

from configs import errors
from configs.errors import ConfigError, FineTuneError
from configs.schema import TrainConfig
from tasks.train.arguments import world_size


def rank() -> int:
    """Return this process's number over all nodes, from 0."""
    return int(os.environ.get("RANK", "0"))


def check_world_size(config: TrainConfig) -> None:
    """Refuse to train in another shape than the config's.

    Raises:
        ConfigError: torch elastic started another number of processes.
    """
    wanted = config.nodes * config.processes_per_node
    if world_size() != wanted:
        raise ConfigError(
            f"train.nodes={config.nodes} x train.processes_per_node={config.processes_per_node} makes {wanted} "
            f"processes, but {world_size()} were started; register the workflow again after changing topologies"
        )


def broadcast(value: str) -> str:
    """Return rank 0's `value` on every rank; a rank that is here knows that rank 0 has come this far."""
    if not dist.is_initialized():
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def user_error(failure: Any) -> FineTuneError | None:
    """Return the message meant for a user in torch elastic's report of failed processes, if there is one.

    `failure` is a `ChildFailedError`; the first process that failed wrote `type: message` for the launcher.
    """
    if not hasattr(failure, "get_first_failure"):
        return None
    _, first = failure.get_first_failure()
    record = (first.error_file_data or {}).get("message", "")
    text = record.get("message", "") if isinstance(record, dict) else str(record)
    name, _, message = text.partition(": ")
    kind = getattr(errors, name, None)
    return kind(message) if isinstance(kind, type) and issubclass(kind, FineTuneError) else None

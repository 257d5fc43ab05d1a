"""What a training process knows of the others."""

from __future__ import annotations

import os

import torch.distributed as dist

from configs.errors import ConfigError
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

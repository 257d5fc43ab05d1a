"""What must be true of the processes of a run before they load anything, and the rows that each takes at once."""

from __future__ import annotations

import os

import torch

from configs.errors import ConfigError
from configs.schema.train import TrainConfig
from tasks.train.sharding import world_size


def check_world_size(config: TrainConfig) -> None:
    """Refuse to train in another shape than the config's.

    Raises:
        ConfigError: torch elastic started a number of processes that no number of `train.nodes` makes.
    """
    fewest, most = (nodes * config.processes_per_node for nodes in (config.fewest_nodes, config.most_nodes))
    if world_size() % config.processes_per_node or not fewest <= world_size() <= most:
        wanted = str(most) if fewest == most else f"{fewest} to {most}"
        raise ConfigError(
            f"train.nodes={config.nodes} x train.processes_per_node={config.processes_per_node} makes {wanted} "
            f"processes, but {world_size()} were started; register the workflow again after changing topologies"
        )


def check_devices(config: TrainConfig) -> None:
    """Refuse more processes than this machine has GPUs for. Without any GPU processes share the CPU.

    Raises:
        ConfigError: names both numbers.
    """
    num_gpus = torch.cuda.device_count()
    num_processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    needed = num_processes * config.cluster.gpus_per_process
    if 0 < num_gpus < needed:
        raise ConfigError(
            f"train.processes_per_node={num_processes} needs {needed} GPUs, and this machine has {num_gpus}\n"
            f"set it to {max(1, num_gpus // config.cluster.gpus_per_process)}"
        )


def smallest_micro_batch(config: TrainConfig) -> int:
    """Return the fewest rows of a forward pass that the objective can learn from."""
    # KTO estimates the KL divergence from the other rows of the pass
    return 2 if config.objective == "kto" and config.kto.loss == "kto" else 1


def fitting_micro_batch(config: TrainConfig, data_parallel_size: int) -> int:
    """Return the largest micro-batch, of at most `train.micro_batch_size` rows, that divides the batch evenly.

    `data_parallel_size` counts the processes that see different rows.

    Raises:
        ConfigError: the batch does not divide among so many processes.
    """
    for rows in range(config.micro_batch, smallest_micro_batch(config) - 1, -1):
        if config.batch_size % (rows * data_parallel_size) == 0:
            return rows
    raise ConfigError(
        f"train.batch_size={config.batch_size} does not divide among {data_parallel_size} processes\n"
        f"set it to a multiple of {data_parallel_size * smallest_micro_batch(config)}"
    )

"""Checks of the number of processes and their devices before anything is loaded."""

from __future__ import annotations

import os

import torch

from configs.errors import ConfigError
from configs.schema.train import TrainConfig
from tasks.train.sharding import world_size


def check_world_size(config: TrainConfig) -> None:
    """Refuse a number of processes other than the config's.

    Raises:
        ConfigError: no number of machines within `train.nodes` makes as many processes as torch elastic started.
    """
    fewest, most = (nodes * config.processes_per_node for nodes in (config.fewest_nodes, config.most_nodes))
    if world_size() % config.processes_per_node or not fewest <= world_size() <= most:
        wanted = str(most) if fewest == most else f"{fewest} to {most}"
        raise ConfigError(
            f"train.nodes={config.nodes} x train.processes_per_node={config.processes_per_node} makes {wanted} "
            f"processes, but {world_size()} were started; register the workflow again after changing topologies"
        )


def check_devices(config: TrainConfig) -> None:
    """Refuse more processes than this machine has GPUs for. Without a GPU, processes share the CPU.

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

"""Elastic tasks that fail in chosen ways in real processes, to test the errors that their launcher reports."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from flytekit import task
from flytekit.exceptions.user import FlyteRecoverableException

from configs.errors import ConfigError, RetryError
from configs.schema.cluster import ClusterConfig
from configs.schema.train import TrainConfig
from tasks.runtime.elastic import ConfiguredElastic
from tasks.runtime.pods import DECK_FIELDS


def run_with_fault(config: TrainConfig, fault: str, starts: str) -> str:
    """Fail as `fault` says in the last process while the others wait in a collective; return the number of processes.

    Every process appends its rank to the file `starts`.
    """
    import torch
    import torch.distributed as dist

    from tasks.train.faults import translated_errors

    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    with Path(starts).open("a") as file:
        file.write(f"{rank}\n")
    restarts = int(os.environ["TORCHELASTIC_RESTART_COUNT"])
    try:
        with translated_errors(config):
            dist.init_process_group("gloo")
            if rank == world - 1:
                if fault == "killed":
                    os.kill(os.getpid(), signal.SIGKILL)
                elif fault == "refused":
                    raise ConfigError("train.seed=7: not today\nset it to 8")
                elif fault == "defect":
                    raise ValueError("boom")
                elif fault == "silent":
                    os._exit(3)
                elif fault == "lost once" and restarts == 0:
                    raise ConnectionResetError("the store went away")
            total = torch.ones(1)
            dist.all_reduce(total)
            if fault == "slow":
                print("training", flush=True)
                time.sleep(120)
            return str(int(total.item()))
    except RetryError as error:
        raise FlyteRecoverableException(error.message) from error


def elastic(nodes: int | str) -> ConfiguredElastic:
    return ConfiguredElastic(nnodes=nodes, nproc_per_node=8, monitor_interval=1, increase_shared_mem=False)


@task(task_config=elastic(1), enable_deck=True, deck_fields=DECK_FIELDS)
def on_one(config: TrainConfig, cluster: ClusterConfig, fault: str, starts: str) -> str:
    return run_with_fault(config, fault, starts)


@task(task_config=elastic("2"), enable_deck=True, deck_fields=DECK_FIELDS)
def on_two(config: TrainConfig, cluster: ClusterConfig, fault: str, starts: str) -> str:
    return run_with_fault(config, fault, starts)

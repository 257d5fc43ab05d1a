"""How the processes of a run exchange short texts, and wait for each other, outside of training itself."""

from __future__ import annotations

import os

import torch.distributed as dist


def rank() -> int:
    """Return this process's number among those of all machines, from 0."""
    return int(os.environ.get("RANK", "0"))


def num_processes() -> int:
    """Return how many processes are connected."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_node_leader() -> bool:
    """Return whether this is the first process of its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def machine() -> tuple[int, int]:
    """Return this machine's number, from 0, and how many there are."""
    processes = max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
    return rank() // processes, max(1, num_processes() // processes)


def barrier() -> None:
    """Wait until all processes are here."""
    if num_processes() > 1:
        dist.barrier()


def broadcast(value: str) -> str:
    """Return rank 0's `value` on every rank; when it returns, rank 0 has called it too."""
    if num_processes() == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0)
    return values[0]


def all_values(value: str) -> list[str]:
    """Return the `value` of each process, in the order of ranks."""
    if num_processes() == 1:
        return [value]
    values: list[str] = [""] * num_processes()
    dist.all_gather_object(values, value)
    return values

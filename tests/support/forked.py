"""Starts processes by a fork of a server that has imported everything: in a tenth of a second, and no less killable."""

from __future__ import annotations

import multiprocessing
import os
import socket
import time
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any
from unittest.mock import patch

FORKING = multiprocessing.get_context("forkserver")
FORKING.set_forkserver_preload(["support.preloaded"])


class ForkedProcess(FORKING.Process):
    """A process of the server, which starts with the first of them."""

    def start(self) -> None:
        """Start it; with tests/ on everyone's PYTHONPATH, tests/tasks would hide the package tasks."""
        with patch.dict(os.environ, {"PYTHONPATH": str(Path(__file__).parents[1])}):
            forkserver.ensure_running()
        super().start()


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return int(free.getsockname()[1])


def be_rank(rank: int, world: int, port: int) -> None:
    """Make this process one of `world` on this machine, as torch elastic does: by the environment."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}


def write_output_to(log: Path) -> None:
    """Let this process print into `log`, errors too."""
    file = log.open("w", buffering=1)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)


def run_in_ranks(world: int, logs: Path, timeout: float, function: Callable[..., Any], *arguments: Any) -> None:
    """Call `function` in new processes, in one that is alone or in the ranks of `world`; they print into `logs`.

    When one fails, the others are ended: they would wait for it.
    """
    port = free_port()
    jobs = [ForkedProcess(target=_call, args=(rank, world, port, logs, function, arguments)) for rank in range(world)]
    for job in jobs:
        job.start()
    deadline = time.monotonic() + timeout
    while (living := [job.sentinel for job in jobs if job.is_alive()]) and time.monotonic() < deadline:
        if any(job.exitcode for job in jobs):
            break
        wait(living, deadline - time.monotonic())
    statuses = [job.exitcode for job in jobs]
    for job in jobs:
        job.kill()
    assert statuses == [0] * world, "".join((logs / f"log-{rank}").read_text()[-3000:] for rank in range(world))


def _call(
    rank: int, world: int, port: int, logs: Path, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    write_output_to(logs / f"log-{rank}")
    if world > 1:
        be_rank(rank, world, port)
    function(*arguments)

"""Real training processes that are killed at chosen moments, and started again as Flyte would: tries of one run.

Processes are forked from a server that has imported everything, so that a try takes a second or two.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, Literal

from fsspec.implementations.local import LocalFileSystem
from support.forked import ForkedProcess, be_rank, free_port, write_output_to
from transformers import TrainerCallback

from configs.schema import ModelConfig, TrainConfig
from configs.wire import TrainReport
from tasks.train import fit as fit_module
from tasks.train.checkpoint import checkpoints
from tasks.train.checkpoint.store import CheckpointPlaces, Store, filesystem_of, name_previous
from tasks.train.fit import FitInputs, fit
from tasks.train.objectives import trainer_class  # noqa: F401 - loaded before processes are forked
from tasks.train.watch.observers import Observer, end_observed

Moment = Literal["step", "pass", "upload", "manifest", "download"]
_GRACE_SECONDS = 10


INTERVAL = 3
# eleven rows: three steps an epoch; dropout and held-out loss: random numbers, the best weights and the patience of
# early stopping are part of a state
SETTINGS: dict[str, Any] = {
    "batch_size": 4,
    "micro_batch_size": 2,
    "logging_steps": 2,
    "learning_rate": 3e-3,
    "epochs": 8,
    "checkpoint": {"every_steps": INTERVAL},
    "watch": {"evaluations": 5, "early_stopping": 4},
}
METHODS: dict[str, dict[str, Any]] = {
    "full": {"method": "full"},
    "lora": {"method": "lora", "lora": {"rank": 4, "dropout": 0.2}},
}


@dataclass(frozen=True)
class Kill:
    """SIGKILL (or another signal) of one process, when it comes to the `count`th of a kind of moment."""

    rank: int
    moment: Moment
    count: int
    signal: int = signal.SIGKILL


@dataclass
class Try:
    """What one try did: the exit codes of its processes, the first and the last optimizer step it made."""

    exit_codes: list[int | None]
    first_step: int | None
    last_step: int | None


@dataclass
class Run:
    """Tries of one run. `settings` are those of the train section; `inputs` those of `FitInputs`."""

    directory: Path
    settings: dict[str, Any]
    inputs: dict[str, Any]
    processes: int = 1
    saves: bool = True
    filesystem: Callable[[str], Any] = filesystem_of
    observers: Callable[[TrainConfig, CheckpointPlaces], list[Observer]] | None = None
    """Returns who looks on in rank 0; called in its process."""
    tries: list[Try] = field(default_factory=list)

    @property
    def output(self) -> Path:
        """Where the last try wrote its model."""
        return self.directory / f"model-{len(self.tries) - 1}"

    def __post_init__(self) -> None:
        self.directory.mkdir(parents=True)

    @property
    def report(self) -> TrainReport:
        """What the last try reported."""
        return TrainReport.model_validate_json((self.directory / "report.json").read_text())

    def log(self, rank: int = 0) -> str:
        """Return what a process of the last try printed."""
        return (self.directory / f"log-{len(self.tries) - 1}-{rank}").read_text()

    @property
    def weights(self) -> dict[str, bytes]:
        """The weight files of the last try's model."""
        return {path.name: path.read_bytes() for path in sorted(self.output.glob("*.safetensors"))}

    def places(self, number: int) -> CheckpointPlaces:
        """Return where a try saves, and where the one before it did."""
        destination, previous = (str(self.directory / "cp" / str(attempt)) for attempt in (number, number - 1))
        return CheckpointPlaces(destination, previous if number else None, self.filesystem)

    def start(self, kill: Kill | None = None, seconds: float | None = None, processes: int | None = None) -> Try:
        """Make one try; `kill` ends a process at its moment, `seconds` ends a random one after so long."""
        number, world = len(self.tries), processes or self.processes
        port = free_port()
        # the launcher does this before it starts any process
        name_previous(self.places(number))
        jobs = [
            ForkedProcess(target=_train, args=(self, number, rank, world, port, kill), daemon=True)
            for rank in range(world)
        ]
        for job in jobs:
            job.start()
        if seconds is not None:
            deadline = time.monotonic() + seconds
            while time.monotonic() < deadline and all(job.is_alive() for job in jobs):
                time.sleep(0.02)
            # it may have ended by itself
            with contextlib.suppress(ProcessLookupError):
                os.kill(jobs[number % world].pid, signal.SIGKILL)
        living = [job.sentinel for job in jobs]
        wait(living, timeout=300)
        failed = [job for job in jobs if job.exitcode not in (None, 0)]
        for job in jobs if failed else []:
            # as torch elastic does with the others
            if job.is_alive():
                job.terminate()
        for job in jobs:
            job.join(timeout=_GRACE_SECONDS if failed else 300)
            if job.is_alive():
                job.kill()
                job.join()
        log = self.directory / f"steps-{number}"
        steps = [int(line) for line in log.read_text().split()] if log.exists() else []
        made = Try([job.exitcode for job in jobs], min(steps, default=None), max(steps, default=None))
        self.tries.append(made)
        return made


class Undisturbed:
    """Runs that nothing disturbs: each is made once, and every killed run of the same settings is compared with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._runs: dict[str, Run] = {}

    def __call__(self, settings: dict[str, Any], inputs: dict[str, Any], processes: int = 1) -> Run:
        """Return the run of these settings, which has ended."""
        key = json.dumps([settings, inputs, processes], sort_keys=True, default=str)
        if key not in self._runs:
            run = Run(self._directory / str(len(self._runs)), settings, inputs, processes)
            assert run.start().exit_codes == [0] * processes, run.log()
            self._runs[key] = run
        return self._runs[key]


class _Moments(TrainerCallback):
    """Counts steps and passes; rank 0 writes down each step it has made."""

    def __init__(self, log: Path, rank: int, strike: Any) -> None:
        self._log, self._rank, self._strike = log, rank, strike

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._strike("step", state.global_step + 1)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._strike("pass", state.global_step + 1)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._rank == 0:
            with self._log.open("a") as file:
                file.write(f"{state.global_step + 1}\n")


def _train(run: Run, number: int, rank: int, world: int, port: int, kill: Kill | None) -> None:
    write_output_to(run.directory / f"log-{number}-{rank}")
    be_rank(rank, world, port)
    counts: dict[str, int] = {}

    def strike(moment: str, count: int | None = None) -> None:
        counts[moment] = count if count is not None else counts.get(moment, 0) + 1
        if kill is not None and (kill.rank, kill.moment, kill.count) == (rank, moment, counts[moment]):
            os.kill(os.getpid(), kill.signal)

    if kill is not None:
        _watch_store(strike)
    made = fit_module.make_trainer

    def make_trainer(*args: Any, **kwargs: Any) -> Any:
        trainer = made(*args, **kwargs)
        trainer.add_callback(_Moments(run.directory / f"steps-{number}", rank, strike))
        return trainer

    fit_module.make_trainer = make_trainer
    places = run.places(number)
    config = TrainConfig(**run.settings, processes_per_node=world)
    model = run.directory / f"model-{number}"
    observers = run.observers(config, places) if run.observers is not None and rank == 0 else []
    inputs = FitInputs(**run.inputs, observers=observers)
    with end_observed(observers):
        report = fit(config, ModelConfig(name="tiny"), inputs, model, places if run.saves else None)
    if rank == 0:
        (run.directory / "report.json").write_text(report.model_dump_json())
    sys.stdout.flush()


def _watch_store(strike: Any) -> None:
    """Strike in the middle of a file: after half of it was copied, where the store is a disk."""
    upload, write_text, download = Store.upload, Store.write_text, Store.download

    def uploaded(self: Store, local: Path, name: str) -> None:
        if not name.startswith("best"):
            half = Path(self._path(name))
            half.parent.mkdir(parents=True, exist_ok=True)
            content = local.read_bytes()
            half.write_bytes(content[: len(content) // 2])
            strike("upload")
        upload(self, local, name)

    def written(self: Store, name: str, text: str) -> None:
        if "manifest" in name:
            strike("manifest")
        write_text(self, name, text)

    def downloaded(self: Store, name: str, local: Path) -> None:
        download(self, name, local)
        strike("download")

    Store.upload, Store.write_text, Store.download = uploaded, written, downloaded  # type: ignore[method-assign]
    assert checkpoints.Store is Store


class FullNow(LocalFileSystem):
    """A disk that is full while the file `full` lies beside the folder of the tries."""

    cachable = False

    def put_file(self, lpath: Any, rpath: Any, **kwargs: Any) -> Any:
        if (Path(rpath.partition("/cp/")[0]) / "full").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().put_file(lpath, rpath, **kwargs)


class EveryThirdCallFails(LocalFileSystem):
    """An object store on a bad day: every third call is an error, whatever it is."""

    cachable = False
    calls = itertools.count(1)

    def _now_and_then(self) -> None:
        if next(self.calls) % 3 == 0:
            raise OSError(errno.EIO, "503 slow down")

    def put_file(self, *args: Any, **kwargs: Any) -> Any:
        self._now_and_then()
        return super().put_file(*args, **kwargs)

    def get_file(self, *args: Any, **kwargs: Any) -> Any:
        self._now_and_then()
        return super().get_file(*args, **kwargs)

    def pipe_file(self, *args: Any, **kwargs: Any) -> Any:
        self._now_and_then()
        return super().pipe_file(*args, **kwargs)

    def cat_file(self, *args: Any, **kwargs: Any) -> Any:
        self._now_and_then()
        return super().cat_file(*args, **kwargs)

    def find(self, *args: Any, **kwargs: Any) -> Any:
        self._now_and_then()
        return super().find(*args, **kwargs)


def full_now(_: str) -> FullNow:
    return FullNow()


def every_third_call_fails(_: str) -> EveryThirdCallFails:
    return EveryThirdCallFails()


def assert_little_is_repeated(run: Run, reached: int) -> int:
    """Check the first step of the last try; return the highest step made so far."""
    made = run.tries[-1]
    if made.first_step is None or made.last_step is None:
        return reached
    assert reached - (made.first_step - 1) <= INTERVAL
    assert made.first_step <= reached + 1
    return max(reached, made.last_step)

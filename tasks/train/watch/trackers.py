"""Weights & Biases, MLflow and TensorBoard behind one small interface, with runs that a later attempt continues.

transformers has callbacks for them, which are not used: they send transformers' arguments as parameters, with paths of
this machine, and MLflow refuses other values from a resumed run; they begin a new run in every attempt; and their
errors end training. Names of quantities are transformers' own: `train/loss`, `eval/loss`.
"""

from __future__ import annotations

import math
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from fsspec.implementations.local import LocalFileSystem

from configs.addresses import shown_address
from configs.schema.tracking import TrackingConfig

Ending = Literal["finished", "failed", "interrupted"]
_MOST_PARAMETERS, _MOST_METRICS = 100, 1000
_LONGEST_PARAMETER = 500
_TIMEOUT_SECONDS = 20
_INIT_SECONDS = 60.0
_FINISH_SECONDS = 45.0
# files in an object store cannot be appended to: each upload sends the whole file
_UPLOAD_SECONDS = 30.0


@dataclass(frozen=True)
class Point:
    """Quantities at an optimizer step; `seconds` is the Unix time."""

    step: int
    values: dict[str, float]
    seconds: float = field(default_factory=time.time)


@dataclass(frozen=True)
class RunSetup:
    """What a tracker needs to open a run. With the `run_id` of an earlier attempt it continues that run after
    `first_step`. `folder` is a URI for TensorBoard's files; `secrets` are by the variable that a library reads."""

    config: TrackingConfig
    run_name: str
    run_id: str | None
    first_step: int
    parameters: dict[str, str]
    secrets: dict[str, str]
    folder: str
    filesystem: Callable[[str], Any]


class Tracker(Protocol):
    """One run of a tracker. All methods may raise whatever its library raises."""

    run_id: str
    """What `RunSetup.run_id` is in a later attempt."""
    place: str
    """The address or folder at which a person finds the run."""

    def write(self, points: Sequence[Point]) -> None:
        """Add points, except those of steps that an earlier attempt has added."""

    def sync(self, is_last: bool) -> None:
        """Copy what was written to where it outlives this machine, if that is due."""

    def close(self, ending: Ending) -> None:
        """End the run. An interrupted one can be continued."""


def open_tracker(setup: RunSetup) -> Tracker:
    """Begin or continue the run of `setup`, and return it."""
    return TRACKERS[setup.config.tracker](setup)


class TensorBoard:
    """Files that TensorBoard reads: one per attempt, in one folder. Steps that a resumed attempt repeats are purged."""

    def __init__(self, setup: RunSetup) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run_id = setup.run_id or f"{setup.folder.rstrip('/')}/{setup.run_name}-{uuid.uuid4().hex[:8]}"
        self.place = shown_address(self.run_id)
        self._files = setup.filesystem(self.run_id)
        self._is_local = type(self._files) is LocalFileSystem
        self._target = str(self._files._strip_protocol(self.run_id))
        self._local = Path(self._target if self._is_local else tempfile.mkdtemp(prefix="fine-tune-tensorboard-"))
        self._last_steps = self._read(setup.first_step) if setup.run_id else {}
        purge = setup.first_step + 1 if setup.run_id else None
        self._writer = SummaryWriter(str(self._local), purge_step=purge)
        self._uploaded: dict[str, int] = {}
        self._uploaded_at = float("-inf")
        if setup.run_id is None:
            rows = "\n".join(f"| {name} | {value} |" for name, value in setup.parameters.items())
            self._writer.add_text("parameters", f"| parameter | value |\n|---|---|\n{rows}")
            if setup.config.tags:
                self._writer.add_text("tags", ", ".join(setup.config.tags))

    def _read(self, first_step: int) -> dict[str, int]:
        """Return the last step, up to `first_step`, at which each quantity has a point."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        with tempfile.TemporaryDirectory(prefix="fine-tune-tensorboard-") as copy:
            for path in self._files.find(self._target):
                self._files.get_file(path, str(Path(copy) / str(path).rpartition("/")[2]))
            read = EventAccumulator(copy, size_guidance={"scalars": 0}).Reload()
            steps = {name: [event.step for event in read.Scalars(name)] for name in read.Tags()["scalars"]}
        return {name: max((step for step in found if step <= first_step), default=-1) for name, found in steps.items()}

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            for name, value in point.values.items():
                if point.step > self._last_steps.get(name, -1):
                    self._writer.add_scalar(name, value, point.step, walltime=point.seconds)

    def sync(self, is_last: bool) -> None:
        self._writer.flush()
        if self._is_local or (not is_last and time.monotonic() - self._uploaded_at < _UPLOAD_SECONDS):
            return
        for path in self._local.iterdir():
            size = path.stat().st_size
            if self._uploaded.get(path.name) != size:
                self._files.put_file(str(path), f"{self._target}/{path.name}")
                self._uploaded[path.name] = size
        self._uploaded_at = time.monotonic()

    def close(self, ending: Ending) -> None:
        self._writer.close()
        self.sync(is_last=True)


class Mlflow:
    """A run on an MLflow server, over its REST interface."""

    def __init__(self, setup: RunSetup) -> None:
        # the library reads these only from the environment; by default it tries 7 times, minutes apart
        os.environ |= setup.secrets
        os.environ |= {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": str(_TIMEOUT_SECONDS)}
        from mlflow.tracking import MlflowClient

        address = str(setup.config.address).rstrip("/")
        self._client = MlflowClient(tracking_uri=address)
        self._last_steps: dict[str, int] = {}
        self._parameters: list[tuple[str, str]] = []
        if setup.run_id is None:
            self.run_id = self._begin(setup)
        else:
            self.run_id = setup.run_id
            self._continue()
        self.place = f"{address}/#/experiments/{self._experiment}/runs/{self.run_id}"

    def _begin(self, setup: RunSetup) -> str:
        found = self._client.get_experiment_by_name(setup.config.project)
        name = setup.config.project
        self._experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        tags = dict.fromkeys(setup.config.tags, "")
        run = self._client.create_run(self._experiment, tags=tags, run_name=setup.run_name)
        # sent with the first points: if that fails, it is tried again without beginning a second run
        self._parameters = list(setup.parameters.items())
        return str(run.info.run_id)

    def _continue(self) -> None:
        run = self._client.get_run(self.run_id)
        self._experiment = run.info.experiment_id
        for name in run.data.metrics:
            history = self._client.get_metric_history(self.run_id, name)
            self._last_steps[name] = max((metric.step for metric in history), default=0)
        self._client.update_run(self.run_id, status="RUNNING")

    def write(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric, Param

        while self._parameters:
            batch = [Param(name, value[:_LONGEST_PARAMETER]) for name, value in self._parameters[:_MOST_PARAMETERS]]
            self._client.log_batch(self.run_id, params=batch)
            del self._parameters[:_MOST_PARAMETERS]
        metrics = [
            Metric(name, value, int(1000 * point.seconds), point.step)
            for point in points
            for name, value in point.values.items()
            if point.step > self._last_steps.get(name, -1)
        ]
        for start in range(0, len(metrics), _MOST_METRICS):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _MOST_METRICS])

    def sync(self, is_last: bool) -> None:
        """Do nothing: every write is on the server."""

    def close(self, ending: Ending) -> None:
        if ending != "interrupted":
            self._client.set_terminated(self.run_id, "FINISHED" if ending == "finished" else "FAILED")


class Wandb:
    """A run of Weights & Biases. Its library sends from a process of its own, and keeps what it cannot send."""

    def __init__(self, setup: RunSetup) -> None:
        # without these it prints between the lines of our log, and reports crashes to its makers
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        config = setup.config
        settings: dict[str, Any] = {
            # passed in here, the key is not written to a file
            "api_key": setup.secrets.get("WANDB_API_KEY"),
            "init_timeout": _INIT_SECONDS,
            "finish_timeout": _FINISH_SECONDS,
            "console": "off",
            "silent": True,
            "disable_git": True,
            "disable_code": True,
            "root_dir": tempfile.mkdtemp(prefix="fine-tune-wandb-"),
        }
        if config.address is not None:
            settings["base_url"] = config.address.rstrip("/")
        self.run_id = setup.run_id or uuid.uuid4().hex[:8]
        self._run = wandb.init(
            entity=config.entity,
            project=config.project,
            id=self.run_id,
            name=setup.run_name,
            tags=config.tags or None,
            config=None if setup.run_id else setup.parameters,
            resume="allow" if setup.run_id else None,
            settings=wandb.Settings(**settings),
        )
        self.place = shown_address(self._run.url or self._run.dir)
        # an earlier attempt has sent the steps before it, with the same values
        self._first_step = self._run.starting_step

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            if point.step >= self._first_step:
                self._run.log(point.values, step=point.step)

    def sync(self, is_last: bool) -> None:
        """Do nothing: the library sends by itself."""

    def close(self, ending: Ending) -> None:
        if ending == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if ending == "finished" else 1)


def quantities(logs: dict[str, Any]) -> dict[str, float]:
    """Return the finite numbers that a trainer logs, under the names that transformers' callbacks give them."""
    from transformers.integrations.integration_utils import rewrite_logs

    found = {
        name: float(value)
        for name, value in logs.items()
        if isinstance(value, int | float) and math.isfinite(value) and name not in ("step", "epoch", "seconds_left")
    }
    return dict(rewrite_logs(found))


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as texts by dotted name; None and empty lists are left out."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{name}.")
        elif value is not None and value != []:
            flat[f"{prefix}{name}"] = str(value)
    return flat


TRACKERS: dict[str, Callable[[RunSetup], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow, "tensorboard": TensorBoard}

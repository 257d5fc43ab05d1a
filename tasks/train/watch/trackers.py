"""Weights & Biases, MLflow and TensorBoard behind one small interface, with runs that a later try goes on with.

transformers has callbacks for these. They send its own arguments, with paths of this machine, as parameters, which
MLflow refuses to see changed by a resumed run; they begin a new run in every try; and their errors end training. Names
of quantities are those that transformers gives them: `train/loss`, `eval/loss`.
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

from configs.schema.tracking import TrackingConfig

Ending = Literal["finished", "failed", "interrupted"]
_MOST_PARAMETERS, _MOST_METRICS = 100, 1000
_LONGEST_PARAMETER = 500
_TIMEOUT_SECONDS = 20
_INIT_SECONDS = 60.0
_FINISH_SECONDS = 45.0
# an object store has no files that grow: each upload sends all that was written
_UPLOAD_SECONDS = 30.0


@dataclass(frozen=True)
class Point:
    """Quantities at an optimizer step; `seconds` is the time since the epoch."""

    step: int
    values: dict[str, float]
    seconds: float = field(default_factory=time.time)


@dataclass(frozen=True)
class RunSetup:
    """What a tracker has to know of a run. `run_id` is that of an earlier try, if there was one, which is gone on with
    after `first_step`; `folder` a URI, for TensorBoard; `secrets` are by the variable that a library reads."""

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
    """What `RunSetup.run_id` is in a later try."""
    place: str
    """Where a person finds the run."""

    def write(self, points: Sequence[Point]) -> None:
        """Add points; those of steps that an earlier try has added already are left out."""

    def sync(self, is_last: bool) -> None:
        """Bring what was written to where it outlives this machine, if that is due."""

    def close(self, ending: Ending) -> None:
        """End the run. One that was interrupted can be gone on with."""


def open_tracker(setup: RunSetup) -> Tracker:
    """Return the run of `setup`, begun or gone on with."""
    kinds: dict[str, Callable[[RunSetup], Tracker]] = {"wandb": Wandb, "mlflow": Mlflow, "tensorboard": TensorBoard}
    return kinds[setup.config.tracker](setup)


class TensorBoard:
    """Files that TensorBoard reads: one for each try, in one folder, with what a resumed try makes anew taken back."""

    def __init__(self, setup: RunSetup) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.run_id = setup.run_id or f"{setup.folder.rstrip('/')}/{setup.run_name}-{uuid.uuid4().hex[:8]}"
        self.place = self.run_id
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
        """Return the last step of each quantity that is there, of those that are not made anew."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        with tempfile.TemporaryDirectory(prefix="fine-tune-tensorboard-") as copy:
            for path in self._files.find(self._target):
                self._files.get_file(path, str(Path(copy) / str(path).rpartition("/")[2]))
            read = EventAccumulator(copy, size_guidance={"scalars": 0}).Reload()
            steps = {name: [each.step for each in read.Scalars(name)] for name in read.Tags()["scalars"]}
        return {name: max((each for each in found if each <= first_step), default=-1) for name, found in steps.items()}

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
    """A run of an MLflow server, over its REST interface."""

    def __init__(self, setup: RunSetup) -> None:
        # the library reads these from nowhere else; its own patience is 7 tries with minutes between them
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
            self._go_on()
        self.place = f"{address}/#/experiments/{self._experiment}/runs/{self.run_id}"

    def _begin(self, setup: RunSetup) -> str:
        found = self._client.get_experiment_by_name(setup.config.project)
        name = setup.config.project
        self._experiment = self._client.create_experiment(name) if found is None else found.experiment_id
        tags = dict.fromkeys(setup.config.tags, "")
        run = self._client.create_run(self._experiment, tags=tags, run_name=setup.run_name)
        # sent with the first points: where that fails, it is tried again, and no second run is begun
        self._parameters = list(setup.parameters.items())
        return str(run.info.run_id)

    def _go_on(self) -> None:
        run = self._client.get_run(self.run_id)
        self._experiment = run.info.experiment_id
        for name in run.data.metrics:
            history = self._client.get_metric_history(self.run_id, name)
            self._last_steps[name] = max((each.step for each in history), default=0)
        self._client.update_run(self.run_id, status="RUNNING")

    def write(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric, Param

        while self._parameters:
            some = [Param(name, value[:_LONGEST_PARAMETER]) for name, value in self._parameters[:_MOST_PARAMETERS]]
            self._client.log_batch(self.run_id, params=some)
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
        """Nothing: every write is on the server."""

    def close(self, ending: Ending) -> None:
        if ending != "interrupted":
            self._client.set_terminated(self.run_id, "FINISHED" if ending == "finished" else "FAILED")


class Wandb:
    """A run of Weights & Biases. Its library sends from a process of its own, and keeps what it cannot send."""

    def __init__(self, setup: RunSetup) -> None:
        # its own words would stand between the lines of the log, and its reports of crashes go to its makers
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        import wandb

        config = setup.config
        settings: dict[str, Any] = {
            # given here, the key is written to no file
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
        self.place = self._run.url or self._run.dir
        # what an earlier try has sent of the same steps is there, and the same
        self._first_step = self._run.starting_step

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            if point.step >= self._first_step:
                self._run.log(point.values, step=point.step)

    def sync(self, is_last: bool) -> None:
        """Nothing: the library does it."""

    def close(self, ending: Ending) -> None:
        if ending == "interrupted":
            self._run.mark_preempting()
        self._run.finish(exit_code=0 if ending == "finished" else 1)


def quantities(logs: dict[str, Any]) -> dict[str, float]:
    """Return what a trainer logs that is a finite number, under the names that transformers' own callbacks use."""
    from transformers.integrations.integration_utils import rewrite_logs

    found = {
        name: float(value)
        for name, value in logs.items()
        if isinstance(value, int | float) and math.isfinite(value) and name not in ("step", "epoch", "seconds_left")
    }
    return dict(rewrite_logs(found))


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Return nested settings as one level of dotted names and texts; those that are not set are left out."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flattened(value, f"{prefix}{name}.")
        elif value is not None and value != []:
            flat[f"{prefix}{name}"] = str(value)
    return flat

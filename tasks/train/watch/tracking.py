"""Sends the curves of a training to its tracker. Training continues whatever the tracker does.

A thread of rank 0 opens the run, sends the points, and tries again if the tracker cannot be reached. Points that could
not be sent are kept for later, and counted at the end.
"""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from configs.addresses import first_line, public_address, shown_address
from configs.errors import ArtifactError, FineTuneError, RetryError
from configs.printable import one_line
from configs.schema import ModelConfig
from configs.schema.train import TrainConfig
from configs.settings_texts import PLACES
from tasks.models.pace import say
from tasks.train.arguments import learning_rate, world_size
from tasks.train.checkpoint.store import CheckpointPlaces, Store, filesystem_of, stores
from tasks.train.watch.observers import Observer
from tasks.train.watch.trackers import Ending, Point, RunSetup, Tracker, flattened, open_tracker, quantities

RUN_FILE = "tracker.json"
_LAST_SECONDS = 60.0
_MOST_KEPT = 100_000


@dataclass(frozen=True)
class TrackingAccess:
    """What a tracker needs beyond the config: secrets, by the variable that its library reads, and the URI of a folder
    for TensorBoard's files, if the config names none."""

    secrets: dict[str, str]
    folder: str
    filesystem: Callable[[str], Any] = filesystem_of


class Tracking(Observer):
    """Sends the points of one attempt every `seconds_between` seconds. The attempts that share `places` are one run of
    the tracker."""

    def __init__(
        self,
        config: TrainConfig,
        loading: ModelConfig,
        access: TrackingAccess,
        places: CheckpointPlaces | None,
        seconds_between: float = 5.0,
    ) -> None:
        self._seconds_between = seconds_between
        self._config, self._loading, self._access, self._places = config, loading, access, places
        self._pending: deque[Point] = deque(maxlen=_MOST_KEPT)
        self._tracker: Tracker | None = None
        self._thread: threading.Thread | None = None
        self._stopped = threading.Event()
        self._ending: Ending = "finished"
        self._first_step = 0
        self._num_failures = self._num_lost = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.is_world_process_zero:
            self._first_step = state.global_step
            # an earlier attempt may have been killed before it sent its last points
            for entry in state.log_history if state.global_step else []:
                self._pending.append(Point(entry["step"], quantities(entry)))
            self._thread = threading.Thread(target=self._run, name="tracker", daemon=True)
            self._thread.start()

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if self._thread is not None and (values := quantities(logs or {})):
            self._num_lost += len(self._pending) == _MOST_KEPT
            self._pending.append(Point(state.global_step, values))

    @property
    def num_failures(self) -> int:
        """Failed calls so far. Each call is tried again."""
        return self._num_failures

    @property
    def is_up_to_date(self) -> bool:
        """Whether all points so far have been sent."""
        return self._tracker is not None and not self._pending

    def ended(self, error: BaseException | None) -> None:
        """Send what is left, for at most 60 s, and end the run, unless another attempt may continue it."""
        if self._thread is None:
            return
        is_final = isinstance(error, FineTuneError) and not isinstance(error, RetryError)
        self._ending = "finished" if error is None else "failed" if is_final else "interrupted"
        self._stopped.set()
        self._thread.join(_LAST_SECONDS)
        unsent = self._num_lost + len(self._pending)
        if unsent or self._thread.is_alive():
            say(
                f"warning: {self._config.tracking.tracker} did not take {unsent} points of the curves, in "
                f"{self._num_failures} failed calls; training.json and the report have them all",
                "train",
            )

    def _run(self) -> None:
        # at once, so that the log has the run's address from the start
        self._guarded(self._send)
        while not self._stopped.wait(self._seconds_between):
            self._guarded(self._send)
        self._guarded(self._send)
        self._guarded(self._close)

    def _guarded(self, action: Callable[[], None]) -> None:
        try:
            action()
        # no error of a tracker's library may end training
        except Exception as error:
            self._num_failures += 1
            if self._num_failures == 1:
                say(
                    f"warning: {self._config.tracking.tracker} cannot be reached, and training continues: "
                    f"{self._without_secrets(error)}",
                    "train",
                )

    def _without_secrets(self, error: Exception) -> str:
        text = first_line(error, longest=_MOST_KEPT)
        # on a cluster they are in no variable of the environment
        for secret in self._access.secrets.values():
            text = text.replace(secret, "***")
        # only now, so that a secret is found as it is
        return one_line(f"{type(error).__name__}: {text}"[:300])

    def _send(self) -> None:
        if self._tracker is None:
            self._tracker = self._open()
            say(f"{self._config.tracking.tracker}: {self._tracker.place}", "train")
        points = list(self._pending)
        if points:
            self._tracker.write(points)
            for _ in points:
                self._pending.popleft()
        self._tracker.sync(is_last=self._stopped.is_set())

    def _close(self) -> None:
        if self._tracker is not None:
            self._tracker.close(self._ending)

    def _open(self) -> Tracker:
        settings = self._config.tracking
        run_id = self._earlier_run()
        tracker = open_tracker(
            RunSetup(
                config=settings,
                run_name=settings.run_name or f"{self._config.objective}-{time.strftime('%Y%m%d-%H%M%S')}",
                run_id=run_id,
                first_step=self._first_step,
                parameters=self._parameters(),
                secrets=self._access.secrets,
                folder=settings.folder or self._access.folder,
                filesystem=self._access.filesystem,
            )
        )
        if run_id is None and self._places is not None:
            note = {"tracker": settings.tracker, "address": settings.address, **self._noted_id(tracker.run_id)}
            Store(self._places.destination, self._places.filesystem).write_text(RUN_FILE, json.dumps(note))
        return tracker

    def _earlier_run(self) -> str | None:
        """Return the id of the run that an earlier attempt began at the same tracker, or None."""
        settings = self._config.tracking
        for store in [] if self._places is None else stores(self._places):
            try:
                text = store.read_text(RUN_FILE)
            except ArtifactError:
                continue
            note = json.loads(text) if text else {}
            if (note.get("tracker"), note.get("address")) == (settings.tracker, settings.address):
                run_id = str(note["run_id"])
                return f"{str(settings.folder).rstrip('/')}/{run_id}" if note.get("is_in_folder") else run_id
        return None

    def _noted_id(self, run_id: str) -> dict[str, Any]:
        """Return a run's id as the checkpoints' store keeps it: without the config's folder, which may have a user."""
        folder = self._config.tracking.folder
        if folder is None:
            return {"run_id": run_id}
        return {"run_id": run_id.removeprefix(f"{folder.rstrip('/')}/"), "is_in_folder": True}

    def _parameters(self) -> dict[str, str]:
        """Return the resolved settings, without secrets and rows; they leave this machine."""
        train = self._config.model_dump(mode="json", exclude={"tracking", "cluster", "checkpoint"})
        train["learning_rate"] = learning_rate(self._config)
        model = self._loading.model_dump(mode="json")
        settings = flattened({"train": train, "model": model, "processes": world_size()})
        shown = {True: public_address, False: shown_address}
        return {name: shown[name in PLACES](value) for name, value in settings.items()}

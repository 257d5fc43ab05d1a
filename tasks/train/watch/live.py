"""Writes the curves so far to a file, from which the launcher of the training processes makes a Deck.

Flyte publishes no Deck from a process that an elastic task has started; the launcher can, while training runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from configs.errors import FineTuneError
from configs.printable import print_line
from configs.schema.train import TrainConfig
from tasks.decks import html
from tasks.decks.progress import LiveTraining, render_live_training
from tasks.train.watch.measures import best_by_choices
from tasks.train.watch.observers import Observer
from tasks.train.watch.report import report_of

LIVE_FILE = "live-training"
_SECONDS_BETWEEN = 1.0


class LiveReport(Observer):
    """Writes the curves so far to a file, at most once a second, and once more when the run fails."""

    def __init__(self, config: TrainConfig, path: Path) -> None:
        self._config, self._path = config, path
        self._began, self._written_at = time.monotonic(), float("-inf")
        self._last: tuple[Any, Any, Any, dict[str, Any]] | None = None
        self._has_failed = False

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self._last = args, state, kwargs["model"], dict(logs or {})
        if time.monotonic() - self._written_at >= _SECONDS_BETWEEN:
            self._write()

    def ended(self, error: BaseException | None) -> None:
        """If the run failed, write what was logged last, and the error."""
        if error is not None and self._last is not None:
            self._write(error.message if isinstance(error, FineTuneError) else type(error).__name__)

    def _write(self, stopped_by: str = "") -> None:
        assert self._last is not None
        args, state, model, logs = self._last
        live = LiveTraining(
            report=report_of(
                self._config, args, state, model, time.monotonic() - self._began, best_by_choices(self._config)
            ),
            max_steps=state.max_steps,
            tokens_per_second=logs.get("tokens_per_second"),
            seconds_left=logs.get("seconds_left"),
            stopped_by=stopped_by,
        )
        self._written_at = time.monotonic()
        partial = self._path.with_suffix(".partial")
        try:
            partial.write_text(live.model_dump_json(), encoding="utf-8")
            partial.replace(self._path)
        except OSError as error:
            # a Deck that cannot be written must not end training
            if not self._has_failed:
                print_line(f"train: warning: the curves cannot be shown while training runs: {error.strerror}")
            self._has_failed = True


def live_renderer(folder: Path) -> Callable[[], str | None]:
    """Return a function that renders what was written to `folder` since its last call, if anything was."""
    path, rendered_at = folder / LIVE_FILE, [0]

    def render() -> str | None:
        try:
            written_at = path.stat().st_mtime_ns
            if written_at == rendered_at[0]:
                return None
            live = LiveTraining.model_validate_json(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        rendered_at[0] = written_at
        return html.fragment(render_live_training(live))

    return render

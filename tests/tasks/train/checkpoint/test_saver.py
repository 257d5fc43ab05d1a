"""When a checkpoint is due by the clock."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from configs.schema.train import TrainConfig
from tasks.train.checkpoint.saver import Saver
from tasks.train.checkpoint.store import CheckpointPlaces


def saver(every_minutes: float | None, directory: Path, minutes_ago: float) -> Saver:
    """Return the saver of a run whose last checkpoint is `minutes_ago` old."""
    config = TrainConfig(checkpoint={"every_minutes": every_minutes})
    made = Saver(config, CheckpointPlaces(str(directory)), "a" * 64, directory)
    made._last_at -= 60 * minutes_ago
    return made


TRAINER = SimpleNamespace(state=SimpleNamespace(global_step=3), control=SimpleNamespace(should_training_stop=False))


@pytest.mark.parametrize(("minutes_ago", "is_due"), [(1.9, False), (2.1, True)])
def test_a_checkpoint_is_due_after_its_minutes(minutes_ago: float, is_due: bool, tmp_path: Path) -> None:
    made = saver(2.0, tmp_path, minutes_ago)
    assert made.what_is_due(TRAINER) == (is_due, "") and made.interval == "every 2 min"


@pytest.mark.parametrize("off", [0, None])
def test_nothing_is_saved_by_the_clock_when_it_is_off(off: float | None, tmp_path: Path) -> None:
    made = saver(off, tmp_path, minutes_ago=1e6)
    assert made.what_is_due(TRAINER) == (False, "") and made.interval == "when asked to stop"

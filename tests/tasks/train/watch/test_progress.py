"""What the log shows of training while it runs."""

from __future__ import annotations

import re
import time
from types import SimpleNamespace
from typing import Any

import pytest

from tasks.models.pace import heartbeat
from tasks.train import seams
from tasks.train.watch.progress import Progress

LINE = re.compile(r"train: step (\d+)/(\d+)  loss [\d.]+  lr [\d.e+-]+  ([\d,]+) tokens/s  (.+) left")


def test_every_logged_step_has_its_speed_and_time_left(train: Any, capsys: pytest.CaptureFixture[str]) -> None:
    train("out", max_steps=4)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("train: step")]
    found = [LINE.fullmatch(line) for line in lines]
    assert all(found), lines
    assert [(match[1], match[2]) for match in found] == [(str(step), "4") for step in (1, 2, 3, 4)]
    assert found[-1][4] == "0 s"


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every pass of training takes 0.2 s longer."""
    step = seams.Watched.training_step

    def slower(self: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.2)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(seams.Watched, "training_step", slower)


def test_a_step_that_takes_long_shows_its_passes(
    train: Any, slow: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROGRESS_SECONDS", "0.1")
    with heartbeat("train"):
        train("out", max_steps=2, batch_size=8, micro_batch_size=2)
    passes = re.findall(
        r"train: step (\d)/2  (\d) of 4 forward passes of the next, for \d s(.*)", capsys.readouterr().out
    )
    # of both steps, and more than one of each
    assert {step for step, _, _ in passes} == {"0", "1"}
    assert len({made for step, made, _ in passes if step == "1"}) >= 2
    # the pace is known once a step was made
    assert all("tokens/s" in rest and " left" in rest for step, _, rest in passes if step == "1"), passes
    assert not any("left" in rest for step, _, rest in passes if step == "0")


def test_held_out_passes_are_shown_too(
    train: Any, inputs: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PROGRESS_SECONDS", "0.1")
    step = seams.Watched.prediction_step

    def slower(self: Any, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.2)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(seams.Watched, "prediction_step", slower)
    with heartbeat("train"):
        train("out", inputs={"test_tokens": inputs["test_tokens"]}, max_steps=2, watch={"evaluations": 1})
    # 11 rows, 4 in a pass
    assert re.search(r"train: step 2/2  held-out batch 2 of 3, for \d s", capsys.readouterr().out)


def progress_of(steps: list[tuple[float, float]], monkeypatch: pytest.MonkeyPatch, counted: float = 0.0) -> Progress:
    """Return what has seen steps of (seconds they took, tokens in all after them), of 100."""
    now = [0.0]
    monkeypatch.setattr("tasks.train.watch.progress.time.monotonic", lambda: now[0])
    progress = Progress()
    progress.restore(counted)
    state = SimpleNamespace(is_world_process_zero=True, max_steps=100, global_step=0)
    control, args = SimpleNamespace(should_log=False), SimpleNamespace(gradient_accumulation_steps=1)
    now[0] = 50.0
    progress.on_train_begin(args, state, control)
    for seconds, tokens in steps:
        now[0] += seconds
        state.global_step += 1
        progress.on_step_end(args, state, control)
        progress.on_log(args, state, control, {"loss": 1.0, "num_tokens": tokens})
    return progress


def test_speed_and_time_left_by_hand(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first = progress_of([(100, 2_000)], monkeypatch)
    # the first step is all that is known: 99 more of 100 s
    assert (first.tokens_per_second, first.seconds_left) == (20.0, 9_900.0)
    third = progress_of([(100, 2_000), (40, 4_000), (40, 7_000)], monkeypatch)
    # warming up is no part of the pace: 97 more of 40 s
    assert (third.tokens_per_second, third.seconds_left) == (75.0, 3_880.0)
    assert capsys.readouterr().out.splitlines()[-1].endswith("  75 tokens/s  1 h 4 min left")


def test_a_resumed_run_does_not_count_tokens_of_earlier_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    assert progress_of([(10, 1_000_500)], monkeypatch, counted=1_000_000).tokens_per_second == 50.0

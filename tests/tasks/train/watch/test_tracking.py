"""Curves in real trackers: one run over all tries, nothing of it secret, and no harm to training."""

from __future__ import annotations

import socket
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fsspec
import pytest
from support.killed_runs import METHODS, SETTINGS, Kill, Run
from support.tracker_servers import mlflow_server, wandb_server
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from configs.errors import DivergedError, RetryError
from configs.schema import ModelConfig, TrainConfig
from configs.schema.tracking import TrackingConfig
from tasks.train.checkpoint.store import CheckpointPlaces
from tasks.train.watch.observers import Observer, end_observed
from tasks.train.watch.trackers import Point, RunSetup, open_tracker
from tasks.train.watch.tracking import Tracking, TrackingAccess

TOKEN = "tracker-token-5c0ff"
LOADING = ModelConfig(name="tiny")


class SentBeforeStep(Observer):
    """Waits before a step until all points before it were sent."""

    def __init__(self, tracking: Tracking, step: int) -> None:
        self._tracking, self._step = tracking, step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        deadline = time.monotonic() + 60
        while state.global_step + 1 == self._step and not self._tracking.is_up_to_date:
            assert time.monotonic() < deadline, "the tracker took no points"
            time.sleep(0.02)


def observers(
    folder: str, secrets: dict[str, str], config: TrainConfig, places: CheckpointPlaces, step: int = 9
) -> list[Observer]:
    tracking = Tracking(config, LOADING, TrackingAccess(secrets, folder), places, seconds_between=0.02)
    return [tracking, SentBeforeStep(tracking, step)]


def killed_and_resumed(tmp_path: Path, inputs: Any, tracking: dict[str, Any], secrets: dict[str, str]) -> Run:
    """Return a run of 12 steps: killed before its ninth, with a checkpoint of its sixth, and gone on with."""
    settings = {**SETTINGS, **METHODS["full"], "epochs": 4, "tracking": tracking, "watch": {"evaluations": 3}}
    run = Run(tmp_path / "run", settings, inputs, observers=partial(observers, str(tmp_path / "curves"), secrets))
    assert run.start(Kill(0, "step", 9)).exit_codes == [-9]
    made = run.start()
    assert (made.exit_codes, made.first_step, made.last_step) == ([0], 7, 12), run.log()
    return run


def expected(run: Run) -> tuple[list[tuple[int, float]], list[tuple[int, float]]]:
    """Return the training and the held-out loss that the run itself reports, as (step, value)."""
    [held_out] = [series for series in run.report.series if series.name == "eval_loss"]
    return [(point.step, point.loss) for point in run.report.curve], list(
        zip(held_out.steps, held_out.values, strict=True)
    )


def assert_same(found: list[tuple[int, float]], wanted: list[tuple[int, float]]) -> None:
    assert [step for step, _ in found] == [step for step, _ in wanted]
    assert [value for _, value in found] == pytest.approx([value for _, value in wanted], rel=1e-6)


def test_tensorboard_shows_one_curve_of_a_killed_run(inputs: Any, tmp_path: Path) -> None:
    own = tmp_path / "own"
    tracking = {"tracker": "tensorboard", "tags": ["a", "b"], "folder": str(own), "run_name": "mine"}
    run = killed_and_resumed(tmp_path, inputs, tracking, {})
    [folder] = own.iterdir()
    assert folder.name.startswith("mine-")
    # a file of each try
    assert len(list(folder.iterdir())) == 2
    read = EventAccumulator(str(folder)).Reload()
    training, held_out = expected(run)
    # the first, every second, and those of the checkpoints
    assert [step for step, _ in training] == [1, 2, 3, 4, 6, 8, 9, 10, 12]
    assert_same([(point.step, point.value) for point in read.Scalars("train/loss")], training)
    assert_same([(point.step, point.value) for point in read.Scalars("eval/loss")], held_out)
    assert all(point.value > 0 for point in read.Scalars("train/tokens_per_second"))
    parameters = read.Tensors("parameters/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "| train.objective | sft |" in parameters and "| model.name | tiny |" in parameters
    assert read.Tensors("tags/text_summary")[0].tensor_proto.string_val == [b"a, b"]


def test_no_secret_of_a_folders_address_is_kept_or_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A later attempt goes on with the run, although the checkpoints' store has no address of its folder."""
    address = "memory://me:hunter2@bucket/curves"
    settings = {"tracker": "tensorboard", "folder": address, "run_name": "a/b"}
    config = TrainConfig(tracking=settings, deepspeed={"config": "/home/alice/zero.json"}, sharding="zero2")
    loading = ModelConfig(name="https://me:hunter2@host/alice/base?sig=hunter2")
    place = tmp_path / "attempt"
    for previous in (None, str(place)):
        places = CheckpointPlaces(str(place), previous)
        tracking = Tracking(config, loading, TrackingAccess({}, ""), places, seconds_between=0.02)
        tracking.on_train_begin(None, SimpleNamespace(is_world_process_zero=True, global_step=0, log_history=[]), None)
        tracking.ended(None)
    run, again = capsys.readouterr().out.splitlines()
    assert run == again and run.startswith("train: tensorboard: memory://bucket/curves/a/b-")
    assert "hunter2" not in (place / "tracker.json").read_text(encoding="utf-8")
    parameters = tracking._parameters()
    assert parameters["model.name"] == "https://host/alice/base"
    assert parameters["train.deepspeed.config"] == "zero.json"


def test_tensorboard_files_outlive_the_machine_in_a_store(tmp_path: Path) -> None:
    """The last points before a kill were not uploaded: the next try, which begins after step 4, has them from its
    checkpoint."""
    store = fsspec.filesystem("memory")

    def setup(run_id: str | None, first_step: int) -> RunSetup:
        config = TrackingConfig(tracker="tensorboard")
        return RunSetup(config, "mine", run_id, first_step, {}, {}, "memory://curves", lambda _: store)

    points = [Point(step, {"train/loss": 10.0 - step}) for step in range(1, 9)]
    first = open_tracker(setup(None, 0))
    first.write(points[:3])
    first.sync(is_last=False)
    # uploads are far apart
    first.write(points[3:6])
    first.sync(is_last=False)
    second = open_tracker(setup(first.run_id, 4))
    assert second.run_id == first.run_id
    second.write(points[:4])
    second.write(points[4:])
    second.close("finished")
    store.get(first.run_id.removeprefix("memory://") + "/", str(tmp_path), recursive=True)
    read = EventAccumulator(str(tmp_path)).Reload()
    assert len(list(tmp_path.iterdir())) == 2
    assert [(point.step, point.value) for point in read.Scalars("train/loss")] == [(n, 10.0 - n) for n in range(1, 9)]


def test_mlflow_shows_one_curve_of_a_killed_run(inputs: Any, tmp_path: Path) -> None:
    with mlflow_server(TOKEN) as (address, known):
        tracking = {"tracker": "mlflow", "address": address, "run_name": "mine", "tags": ["a"], "project": "p"}
        run = killed_and_resumed(tmp_path, inputs, tracking, {"MLFLOW_TRACKING_TOKEN": TOKEN})
    [(run_id, made)] = known.runs.items()
    assert (known.experiments, made["status"], made["run_name"]) == (["p"], "FINISHED", "mine")
    assert {"key": "a", "value": ""} in made["tags"]
    training, held_out = expected(run)
    assert_same(known.points(run_id, "train/loss"), training)
    assert_same(known.points(run_id, "eval/loss"), held_out)
    parameters = {parameter["key"]: parameter["value"] for parameter in made["params"]}
    assert (parameters["train.batch_size"], parameters["model.name"], parameters["processes"]) == ("4", "tiny", "1")
    # the settings of tracker and pods are none of the training, and no secret is anywhere
    assert not [name for name in parameters if name.startswith(("train.tracking", "train.cluster"))]
    assert TOKEN not in str(made) and TOKEN not in run.log()
    assert f"train: mlflow: {address}/#/experiments/0/runs/{run_id}" in run.log()


def test_wandb_shows_one_curve_of_a_killed_run(inputs: Any, tmp_path: Path) -> None:
    key = "5c0ff" * 8
    with wandb_server(key) as (address, known):
        tracking = {"tracker": "wandb", "address": address, "run_name": "mine", "tags": ["a"], "project": "p"}
        tracking |= {"entity": "team"}
        run = killed_and_resumed(tmp_path, inputs, tracking, {"WANDB_API_KEY": key})
    [(run_id, made)] = known.runs.items()
    assert (made["status"], made["displayName"], made["tags"], made["project"]) == ("exit 0", "mine", ["a"], "p")
    lines = [made["history"][offset] for offset in sorted(made["history"])]
    training, held_out = expected(run)
    assert_same([(line["_step"], line["train/loss"]) for line in lines if "train/loss" in line], training)
    assert_same([(line["_step"], line["eval/loss"]) for line in lines if "eval/loss" in line], held_out)
    assert '"train.batch_size":{"value":"4"}' in made["config"]
    assert key not in str(made) and key not in run.log()
    assert f"train: wandb: {address}/team/p/runs/{run_id}" in run.log()


def fitted(train: Any, tmp_path: Path, tracking: Tracking) -> tuple[Any, float]:
    """Return the report of six steps that are followed, and the seconds that they and the end took."""
    began = time.monotonic()
    with end_observed([tracking]):
        report, _ = train("out", inputs={"observers": [tracking]}, max_steps=6)
    return report, time.monotonic() - began


def test_a_tracker_that_is_away_for_a_while_has_all_points_in_the_end(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with mlflow_server() as (address, known):
        config = TrainConfig(tracking={"tracker": "mlflow", "address": address})
        tracking = Tracking(config, LOADING, TrackingAccess({}, str(tmp_path)), None, seconds_between=0.02)

        class Away(Observer):
            """The server is there for the first steps, goes away in the third, and comes back in the fifth."""

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                deadline = time.monotonic() + 60
                while state.global_step == 2 and not tracking.is_up_to_date and time.monotonic() < deadline:
                    time.sleep(0.02)
                known.is_down = state.global_step in (2, 3, 4)
                while state.global_step == 4 and not tracking.num_failures and time.monotonic() < deadline:
                    time.sleep(0.02)

        with end_observed([tracking]):
            report, _ = train("out", inputs={"observers": [tracking, Away()]}, max_steps=6)
    assert tracking.num_failures
    [run_id] = known.runs
    assert_same(known.points(run_id, "train/loss"), [(point.step, point.loss) for point in report.curve])
    printed = capsys.readouterr().out
    assert printed.count("mlflow cannot be reached, and training continues") == 1
    assert "did not take" not in printed


def test_a_tracker_that_never_answers_costs_a_warning_and_no_training(
    train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.train.watch.tracking._LAST_SECONDS", 2.0)
    expected_report, _ = train("alone", max_steps=6)
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        # takes connections, and says nothing
        address = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        config = TrainConfig(tracking={"tracker": "mlflow", "address": address})
        tracking = Tracking(config, LOADING, TrackingAccess({}, str(tmp_path)), None, seconds_between=0.02)
        report, seconds = fitted(train, tmp_path, tracking)
    assert report.curve == expected_report.curve
    assert seconds < 15
    # six steps, and the summary of the run
    assert "train: warning: mlflow did not take 7 points of the curves" in capsys.readouterr().out


def test_a_key_is_in_no_warning(train: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def leaking(_: str) -> Any:
        raise PermissionError(f"{TOKEN} may not write here\nsecond line")

    config = TrainConfig(tracking={"tracker": "tensorboard"})
    access = TrackingAccess({"KEY": TOKEN}, str(tmp_path), leaking)
    fitted(train, tmp_path, Tracking(config, LOADING, access, None, seconds_between=0.02))
    printed = capsys.readouterr().out
    assert "PermissionError: *** may not write here" in printed
    assert TOKEN not in printed and "second line" not in printed


@pytest.mark.parametrize(
    ("error", "status"),
    [(None, "FINISHED"), (DivergedError("loss exploded"), "FAILED"), (RetryError("preempted"), "RUNNING")],
)
def test_the_end_of_a_run_is_told(error: Exception | None, status: str, tmp_path: Path) -> None:
    with mlflow_server() as (address, known):
        config = TrainConfig(tracking={"tracker": "mlflow", "address": address})
        tracking = Tracking(config, LOADING, TrackingAccess({}, str(tmp_path)), None)
        state = SimpleNamespace(is_world_process_zero=True, global_step=0, log_history=[])
        tracking.on_train_begin(None, state, None)
        state.global_step = 5
        tracking.on_log(None, state, None, {"loss": 2.0, "grad_norm": float("nan"), "seconds_left": 9.0})
        tracking.ended(error)
    [(run_id, made)] = known.runs.items()
    # another try goes on with a run that was preempted
    assert made["status"] == status
    assert known.points(run_id, "train/loss") == [(5, 2.0)]
    assert [metric["key"] for metric in made["metrics"]] == ["train/loss"]


def test_files_go_to_the_executions_own_store_by_default(train: Any, tmp_path: Path) -> None:
    config = TrainConfig(tracking={"tracker": "tensorboard"})
    access = TrackingAccess({}, str(tmp_path / "execution"))
    report, _ = fitted(train, tmp_path, Tracking(config, LOADING, access, None))
    [folder] = (tmp_path / "execution").iterdir()
    read = EventAccumulator(str(folder)).Reload()
    assert [point.step for point in read.Scalars("train/loss")] == [point.step for point in report.curve]


def test_other_ranks_send_nothing(tmp_path: Path) -> None:
    with mlflow_server() as (address, known):
        config = TrainConfig(tracking={"tracker": "mlflow", "address": address})
        tracking = Tracking(config, LOADING, TrackingAccess({}, str(tmp_path)), None)
        state = SimpleNamespace(is_world_process_zero=False, global_step=1)
        tracking.on_train_begin(None, state, None)
        tracking.on_log(None, state, None, {"loss": 2.0})
        tracking.ended(None)
    assert not known.num_calls

"""The plan asks a tracker whether it will accept the run; each refusal says what to do."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.tracker_servers import mlflow_server, wandb_server

from configs.errors import ConfigError
from configs.schema.tracking import TrackingConfig
from configs.schema.train import TrainConfig
from tasks.plan.checks.tracking import check_tracking, with_run_name
from tasks.train.checkpoint.store import filesystem_of

KEY = "5c0ff" * 8
SOURCES = "the Flyte secret x/y, $X"


def check(secrets: dict[str, str], is_laptop: bool = False, files: Any = filesystem_of, **settings: Any) -> None:
    check_tracking(TrackingConfig(**settings), secrets, SOURCES, files, is_laptop)


def refusal(secrets: dict[str, str], **settings: Any) -> str:
    with pytest.raises(ConfigError) as raised:
        check(secrets, **settings)
    assert len(str(raised.value).splitlines()) <= 3
    assert not any(secret in str(raised.value) for secret in secrets.values())
    return str(raised.value)


def test_without_a_tracker_nothing_is_asked() -> None:
    check({})


def test_a_wandb_server_takes_the_right_key_only() -> None:
    with wandb_server(KEY) as (address, known):
        check({"WANDB_API_KEY": KEY}, tracker="wandb", address=address)
        assert "refused the API key" in refusal({"WANDB_API_KEY": "wrong"}, tracker="wandb", address=address)
        missing = refusal({}, tracker="wandb", address=address)
        assert "needs an API key; looked in the Flyte secret x/y, $X" in missing and f"{address}/authorize" in missing
        # the question creates no run
        assert known.runs == {}


def test_a_key_that_belongs_to_nobody_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("support.tracker_servers._wandb", lambda *_: (200, {"data": {"viewer": None}}))
    with wandb_server(KEY) as (address, _):
        assert "refused the API key" in refusal({"WANDB_API_KEY": KEY}, tracker="wandb", address=address)


def test_an_mlflow_server_takes_the_right_token_only() -> None:
    with mlflow_server(KEY) as (address, known):
        check({"MLFLOW_TRACKING_TOKEN": KEY}, tracker="mlflow", address=f"{address}/")
        found = refusal({"MLFLOW_TRACKING_TOKEN": "wrong"}, tracker="mlflow", address=address)
        assert f"train.tracking.address={address} refused access (401); found MLFLOW_TRACKING_TOKEN" in found
        assert "found none, looked in the Flyte secret x/y" in refusal({}, tracker="mlflow", address=address)
        assert known.runs == {}


def test_another_server_and_no_server_have_different_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    with mlflow_server() as (address, known):
        known.is_down = True
        found = refusal({}, tracker="mlflow", address=address)
        assert f"train.tracking.address={address} is no MLflow server (it answered 503)" in found
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        closed = f"http://127.0.0.1:{free.getsockname()[1]}"
    found = refusal({"WANDB_API_KEY": KEY}, tracker="wandb", address=closed)
    assert f"train.tracking.address={closed}: {closed} cannot be reached (ConnectError)" in found
    assert "set train.tracking.tracker=none" in found


def test_a_folder_must_outlive_the_pod_and_be_writable(tmp_path: Path) -> None:
    check({}, tracker="tensorboard", folder=str(tmp_path / "curves"), is_laptop=True)
    assert list((tmp_path / "curves").iterdir()) == []
    assert "lost with it; name a store" in refusal({}, tracker="tensorboard", folder=str(tmp_path))
    check({}, tracker="tensorboard", folder="memory://curves", files=lambda _: fsspec.filesystem("memory"))

    def refuses(_: str) -> Any:
        raise PermissionError("no")

    found = refusal({}, tracker="tensorboard", folder="s3://bucket/curves", files=refuses)
    assert "train.tracking.folder=s3://bucket/curves cannot be written to (PermissionError)" in found


def test_a_package_that_is_missing_is_named_on_a_laptop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.plan.checks.tracking.importlib.util.find_spec", lambda _: None)
    found = refusal({}, tracker="tensorboard", is_laptop=True)
    assert "needs the package tensorboard" in found and "pip install -e '.[tracking]'" in found


def test_a_run_is_named_after_its_config_objective_and_execution() -> None:
    train = TrainConfig(objective="dpo", tracking={"tracker": "tensorboard"})
    assert with_run_name(train, "demo", "f3a1").tracking.run_name == "demo-dpo-f3a1"
    assert with_run_name(train, "demo", "").tracking.run_name == "demo-dpo"
    own = TrainConfig(tracking={"tracker": "tensorboard", "run_name": "mine"})
    assert with_run_name(own, "demo", "f3a1") == own
    assert with_run_name(TrainConfig(), "demo", "f3a1") == TrainConfig()

"""Settings of a tracker that contradict one another are refused with the fix; a message never shows a password."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from configs.schema.tracking import TrackingConfig


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tracker": "mlflow"}, "tracker=mlflow needs train.tracking.address"),
        (
            {"address": "https://x"},
            "train.tracking.address is not read by tracker=none; set tracker to wandb or mlflow",
        ),
        ({"tracker": "mlflow", "address": "https://x", "entity": "team"}, "entity is not read by tracker=mlflow"),
        ({"tracker": "wandb", "folder": "s3://b"}, "folder is not read by tracker=wandb; set tracker to tensorboard"),
        (
            {"tracker": "mlflow", "address": "mlflow.my.org"},
            "=mlflow.my.org is not the address of a server; write it as",
        ),
        ({"tracker": "mlflow", "address": "file:///mlruns"}, "is not the address of a server"),
        ({"tracker": "wandb", "project": "a/b"}, "train.tracking.project=a/b holds /, which W&B refuses"),
        ({"tracker": "clearml"}, "'none', 'wandb', 'mlflow' or 'tensorboard'"),
    ],
)
def test_contradictions_are_refused_with_the_fix(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError) as raised:
        TrackingConfig(**settings)
    assert words in str(raised.value)


def test_a_password_in_an_address_is_refused_and_not_shown() -> None:
    with pytest.raises(ValidationError) as raised:
        TrackingConfig(tracker="mlflow", address="https://me:hunter2@mlflow.my.org")
    [fault] = raised.value.errors()
    assert "hunter2" not in fault["msg"] and "mlflow/password" in fault["msg"]
    with pytest.raises(ValidationError) as raised:
        TrackingConfig(tracker="mlflow", address="https://mlflow.my.org?key=hunter2")
    [fault] = raised.value.errors()
    assert "address=https://mlflow.my.org has a query or a fragment" in fault["msg"]


def test_experiments_of_mlflow_may_be_paths() -> None:
    assert TrackingConfig(tracker="mlflow", address="https://x:5000", project="/Users/me/a").project == "/Users/me/a"

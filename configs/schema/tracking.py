"""Where the curves of a training go while it runs, for those who look on from outside of Flyte."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from configs.schema.section import Section

TrackerName = Literal["none", "wandb", "mlflow", "tensorboard"]

_NOT_IN_PROJECTS = "/\\#?%:"
"""Signs that W&B refuses in the name of a project."""


class TrackingConfig(Section):
    """A tracker of experiments, which follows training while it runs; changes no result, and a change does not train
    again. Keys and tokens come from Flyte secrets or the environment, never from a config (docs/watching.md)."""

    tracker: TrackerName = Field(
        "none", description="Weights & Biases, an MLflow server, or TensorBoard files; off by default."
    )
    project: str = Field("fine-tune", min_length=1, description="W&B project or MLflow experiment.")
    run_name: str | None = Field(
        None, min_length=1, description="Name of the run; when not set, the config's name, objective and execution."
    )
    tags: list[str] = Field([], description="Labels of the run.")
    address: str | None = Field(
        None, description="http(s) address of the MLflow server, or of your own W&B server; W&B's cloud when not set."
    )
    entity: str | None = Field(None, min_length=1, description="W&B team or user; the key's own when not set.")
    folder: str | None = Field(
        None,
        min_length=1,
        description="Where TensorBoard files are put, such as s3://bucket/curves; the execution's own store when not "
        "set. Each run has a folder of its own in it.",
    )

    @model_validator(mode="after")
    def _each_setting_is_read(self) -> TrackingConfig:
        read_by: dict[str, tuple[TrackerName, ...]] = {
            "address": ("wandb", "mlflow"),
            "entity": ("wandb",),
            "folder": ("tensorboard",),
        }
        for name, trackers in read_by.items():
            if getattr(self, name) is not None and self.tracker not in trackers:
                raise ValueError(
                    f"train.tracking.{name} is not read by tracker={self.tracker}; set tracker to "
                    f"{' or '.join(trackers)}, or remove it"
                )
        if self.tracker == "mlflow" and self.address is None:
            raise ValueError(
                "train.tracking.tracker=mlflow needs train.tracking.address, such as https://mlflow.my.org"
            )
        return self

    @model_validator(mode="after")
    def _names_can_be_used(self) -> TrackingConfig:
        if self.tracker == "wandb" and (bad := [sign for sign in _NOT_IN_PROJECTS if sign in self.project]):
            raise ValueError(f"train.tracking.project={self.project} holds {bad[0]}, which W&B refuses; leave it out")
        if self.address is None:
            return self
        parts = urlsplit(self.address)
        if parts.username or parts.password:
            # without the value: it holds a password
            raise ValueError(
                "train.tracking.address holds a user or a password; put them into the secrets mlflow/username and "
                "mlflow/password, or wandb/api_key"
            )
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(
                f"train.tracking.address={self.address} is no address of a server; write it as https://host:port"
            )
        return self

"""The tracking section of a config: where training sends its curves while it runs, besides Flyte's own Decks."""

from __future__ import annotations

from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from configs.addresses import shown_address
from configs.schema.section import Section

TrackerName = Literal["none", "wandb", "mlflow", "tensorboard"]

_REFUSED_IN_PROJECTS = "/\\#?%:"
"""Characters that W&B refuses in the name of a project."""


class TrackingConfig(Section):
    """An experiment tracker, which follows training while it runs. It changes no result, so a change does not train
    again. Keys and tokens come from Flyte secrets or the environment, never from a config (docs/watching.md)."""

    tracker: TrackerName = Field(
        "none", description="Tracker to use, if any: Weights & Biases, an MLflow server, or TensorBoard files."
    )
    project: str = Field("fine-tune", min_length=1, description="W&B project or MLflow experiment.")
    run_name: str | None = Field(
        None,
        min_length=1,
        description="Name of the run in the tracker; when not set, made of the config's name, the objective and the "
        "execution.",
    )
    tags: list[str] = Field([], description="Tags of the run in the tracker.")
    address: str | None = Field(
        None,
        description="http(s) address of the MLflow server, or of your own W&B server; when not set, W&B's cloud.",
    )
    entity: str | None = Field(
        None, min_length=1, description="W&B team or user; when not set, the default one of the API key."
    )
    folder: str | None = Field(
        None,
        min_length=1,
        description="Folder for TensorBoard files, such as s3://bucket/curves, in which each run gets its own folder; "
        "when not set, the store of the execution.",
    )

    @model_validator(mode="after")
    def _all_settings_are_read(self) -> TrackingConfig:
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
        if self.tracker == "wandb":
            for character in _REFUSED_IN_PROJECTS:
                if character in self.project:
                    raise ValueError(
                        f"train.tracking.project={self.project} holds {character}, which W&B refuses; leave it out"
                    )
        if self.address is None:
            return self
        parts = urlsplit(self.address)
        if parts.username or parts.password:
            # the message does not show the address, since it holds a password
            raise ValueError(
                "train.tracking.address holds a user or a password; put them into the secrets mlflow/username and "
                "mlflow/password, or wandb/api_key"
            )
        if parts.query or parts.fragment:
            raise ValueError(
                f"train.tracking.address={shown_address(self.address)} has a query or a fragment, which may hold a "
                "secret and which no tracker reads; remove it"
            )
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ValueError(
                f"train.tracking.address={self.address} is not the address of a server; write it as https://host:port"
            )
        return self

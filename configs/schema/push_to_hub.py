"""The push_to_hub section of a config: publication on a hub."""

from __future__ import annotations

from pydantic import Field

from configs.artifacts import PushedArtifact
from configs.schema.section import Section


class PushConfig(Section):
    """Publication on a hub. The token comes from a Flyte secret or the environment, never from a config."""

    repository: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="Hub repository, `owner/name`; when not set, nothing is pushed."
    )
    private: bool = Field(True, description="Make the repository private when it is created.")
    artifacts: list[PushedArtifact] = Field(
        ["model"],
        min_length=1,
        description="What to push; each artifact but `model` has its own repository, `<repository>-<artifact>`.",
    )
    only_if_better: bool = Field(
        True,
        description="Push only if the tuned model beats the model that training began with, in held-out loss, "
        "preferences or reward, as its objective measures. A reward model must beat chance.",
    )

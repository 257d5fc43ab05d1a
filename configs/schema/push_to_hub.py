"""The push_to_hub section of a config: publication on a hub."""

from __future__ import annotations

from pydantic import Field, model_validator

from configs.artifacts import PushedArtifact, repository_of
from configs.schema.section import Section


class PushConfig(Section):
    """Publication on a hub. The token comes from a Flyte secret or the environment, never from a config."""

    repository: str | None = Field(
        None, pattern=r"^[\w.-]+/[\w.-]+$", description="Hub repository, `owner/name`; when not set, nothing is pushed."
    )
    revision: str | None = Field(
        None,
        pattern=r"^[A-Za-z0-9][\w.-]*(/[\w.-]+)*$",
        description="Branch to push to, created if need be; when not set, `main`. The commit also gets a tag.",
    )
    private: bool = Field(
        True,
        description="Make the repository private when it is created; a push to one that is public is refused.",
    )
    artifacts: list[PushedArtifact] = Field(
        ["model"],
        min_length=1,
        description="What to push; each artifact but `model` has its own repository, `<repository>-<artifact>`.",
    )
    reason: str = Field(
        "",
        max_length=500,
        description="Why an artifact that the gate holds back is published nevertheless; its card says so. When empty, "
        "only artifacts that the gate promotes are published, each by its own scores.",
    )
    quantized_tolerance: float = Field(
        0.5,
        ge=0.0,
        le=1.0,
        description="The largest share of what the tuned model gained over its base that a quantized copy may have "
        "lost.",
    )

    @model_validator(mode="after")
    def _repositories_have_valid_names(self) -> PushConfig:
        for artifact in self.artifacts if self.repository else []:
            target = repository_of(str(self.repository), artifact)
            if not _is_valid_name(target):
                suffix = f", of which the artifact {artifact} adds the end" if target != self.repository else ""
                raise ValueError(
                    f"push_to_hub.repository: {target} is no valid name{suffix}\n"
                    "a name has no -- and no .., does not begin or end with - or ., does not end with .git, and has at "
                    "most 96 characters"
                )
        return self


def fault_of_public_repository(repository: str) -> str:
    """Return why a push with `private: true` to a repository that is public is refused, with the fix."""
    return (
        f"push_to_hub.repository={repository} is public, and push_to_hub.private is true: a push would publish the "
        "model\nmake the repository private, name another, or set push_to_hub.private: false"
    )


def _is_valid_name(repository: str) -> bool:
    """Return whether the hub's client takes a repository's name; only then its import, which takes time, is needed."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(repository)
    except HFValidationError:
        return False
    return True

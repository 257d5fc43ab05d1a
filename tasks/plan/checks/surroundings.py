"""What the checks of a config must know beside it: where the run will be, its secrets, and the base model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from configs.effective.device import PLAIN_CPU, Device
from configs.schema import FineTuneConfig, ModelConfig
from tasks.files.streams import is_remote
from tasks.plan.checks.preflight import NETWORK_SECONDS, READING_SECONDS, Shared
from tasks.plan.resolve import models


@dataclass(frozen=True)
class Surroundings:
    """What the checks must know that no config says.

    `token_sources` and `tracker_sources` say in words where secrets were looked for. `filesystem_of` returns Flyte's
    file system for an address, `parameters_of` (all, trained) of a model by its config.json, where the caller can say.
    `device` is what trains, where training runs here. `stage` is that of an alignment, and stands before the names of
    questions that each stage has. `plans_elsewhere`: the plan is made here for machines elsewhere, so that what only
    this one lacks is no failure.
    """

    is_laptop: bool
    token: str | None
    token_sources: str
    tracker_secrets: Mapping[str, str]
    tracker_sources: str
    filesystem_of: Callable[[str], Any]
    scratch: Path
    has_reward_model: bool = False
    stage: str = ""
    plans_elsewhere: bool = False
    parameters_of: Callable[[dict[str, Any], FineTuneConfig], tuple[int, int]] | None = None
    device: Device = PLAIN_CPU

    @property
    def runs_here(self) -> bool:
        """Whether training runs on this machine."""
        return self.is_laptop and not self.plans_elsewhere


@dataclass(frozen=True)
class Base:
    """The base model, found once for all questions of all stages; `files` is None for the embedded one."""

    config: ModelConfig
    files: Shared[models.ModelFiles | None]
    resolved: Shared[models.ResolvedModel]

    @property
    def seconds(self) -> float:
        """How long its revision may take: a hub names a commit, a folder's content is read."""
        name = self.config.name
        return READING_SECONDS if is_remote(name) or Path(name).expanduser().exists() else NETWORK_SECONDS


def base_model(config: ModelConfig, token: str | None) -> Base:
    """Return the base model to be asked; nothing is asked yet."""
    files = Shared("model files", lambda: models.find_model(config, token))
    # what a model may do is asked for by questions of their own
    allowed = config.model_copy(update={"allow_pickled_weights": True, "trust_remote_code": True})

    def resolve() -> models.ResolvedModel:
        found = files.own()
        return models.EMBEDDED if found is None else models.check_model(allowed, found)

    return Base(config, files, Shared("model files", resolve))

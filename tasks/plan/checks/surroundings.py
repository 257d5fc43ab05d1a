"""What the checks of a config need to know besides it: where the run will be, its secrets, and the base model."""

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
    """What the checks need to know that no config states.

    `token_sources` and `tracker_sources` say in words where secrets were looked for. `filesystem_of` returns Flyte's
    file system for an address. `parameters_of` returns the numbers of (all, trained) parameters for a config.json, if
    the caller can compute them. `device` is the one that trains, if training runs here. `phase` is the phase of an
    alignment, a prefix for the names of questions that are asked for each phase. `plans_elsewhere`: the plan is for
    machines elsewhere, so a package or space that this machine lacks is not a failure. `trains` is false for an
    evaluation alone.
    """

    is_laptop: bool
    token: str | None
    token_sources: str
    tracker_secrets: Mapping[str, str]
    tracker_sources: str
    filesystem_of: Callable[[str], Any]
    scratch: Path
    has_reward_model: bool = False
    phase: str = ""
    plans_elsewhere: bool = False
    parameters_of: Callable[[dict[str, Any], FineTuneConfig], tuple[int, int]] | None = None
    device: Device = PLAIN_CPU
    trains: bool = True

    @property
    def runs_here(self) -> bool:
        """Whether training runs on this machine."""
        return self.is_laptop and not self.plans_elsewhere


@dataclass(frozen=True)
class Base:
    """The base model, looked up once for the questions of all phases; `files` is None for the embedded one."""

    config: ModelConfig
    files: Shared[models.ModelFiles | None]
    resolved: Shared[models.ResolvedModel]

    @property
    def seconds(self) -> float:
        """Time limit for finding its revision: a hub names a commit, but a folder's content must be read."""
        name = self.config.name
        return READING_SECONDS if is_remote(name) or Path(name).expanduser().exists() else NETWORK_SECONDS


def base_model(config: ModelConfig, token: str | None) -> Base:
    """Return the base model; nothing is looked up yet."""
    files = Shared("model files", lambda: models.find_model(config, token))
    # separate questions check these two permissions
    allowed = config.model_copy(update={"allow_pickled_weights": True, "trust_remote_code": True})

    def resolve() -> models.ResolvedModel:
        found = files.value()
        return models.EMBEDDED if found is None else models.check_model(allowed, found)

    return Base(config, files, Shared("model files", resolve))

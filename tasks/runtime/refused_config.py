"""A config that does not validate reaches its task, which refuses it: flytekit would bury the message under its own."""

from __future__ import annotations

from typing import Any, NoReturn, TypeVar

from configs.errors import ConfigError
from configs.printable import joined_lines
from configs.schema import RunConfig

Config = TypeVar("Config", bound=RunConfig)


class RefusedConfig:
    """Stands for a config that does not validate; reading any of its attributes raises the error."""

    def __init__(self, error: ConfigError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> NoReturn:
        # Python itself asks for these, for example to copy or pickle the object
        if name.startswith("__"):
            raise AttributeError(name)
        raise self._error

    def __repr__(self) -> str:
        # flytekit logs a task's inputs
        return f"RefusedConfig({joined_lines(self._error)})"


def accepted(config: Config) -> Config:
    """Return a task's config. A task that gets its config from outside calls this first.

    Raises:
        ConfigError: the config does not validate; `faults` are all its faults, which the task's Deck shows.
    """
    refused: Any = config
    if isinstance(refused, RefusedConfig):
        raise refused._error
    return config

"""The errors a user is meant to read: one to three lines that name the thing, the value, the rule, and the fix.

`pyflyte` prints the traceback of every exception except click's own. These errors derive from click's `Exit` with a
text as its status, which `sys.exit` prints to stderr before it exits with status 1. In a pod they are plain
exceptions: Flyte records their text.
"""

from __future__ import annotations

from collections.abc import Iterable

from click.exceptions import Exit


class FineTuneError(Exit):
    """Base of every deliberate error; `str(error)` is the whole message."""

    def __init__(self, message: str) -> None:
        super().__init__(0)
        self.args = (message,)
        self.message = message
        # sys.exit(text) prints the text to stderr and exits with status 1
        self.exit_code = f"Error: {message}"  # type: ignore[misc, assignment]

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[FineTuneError], tuple[str]]:
        return type(self), (self.message,)


class ConfigError(FineTuneError, ValueError):
    """A config that names a missing thing, or whose values contradict each other or the model."""


class DataError(FineTuneError):
    """Rows or files that cannot be used; names file and row, never their content."""


class ModelError(FineTuneError):
    """A model directory or repository that cannot be loaded, or must not be."""


class ArtifactError(FineTuneError):
    """An artifact of an earlier step that is gone or incomplete, or a disk that is full."""


class HubError(FineTuneError):
    """The hub refused or could not be reached; never contains the token."""


class UnreachableError(FineTuneError):
    """A server that did not answer at all: no route, no such name, no network allowed. Nothing is known of its answer.

    A base beside `HubError`, `ConfigError` and `DataError`, so that whoever catches these catches the ones below too.
    """


class UnreachableHubError(UnreachableError, HubError):
    """The hub cannot be reached."""


class UnreachableTrackerError(UnreachableError, ConfigError):
    """The tracker that a config names cannot be reached."""


class UnreachableStoreError(UnreachableError, DataError):
    """The store or web server of an address cannot be reached."""


class RegistrationError(FineTuneError):
    """A cluster that refused what was registered or started, or cannot be reached."""


class InterruptedRunError(FineTuneError):
    """A run that a signal ended, such as Ctrl-C."""


class DivergedError(FineTuneError):
    """Training whose loss is no longer a number, or has leapt or climbed."""


class RetryError(FineTuneError):
    """A fault that another try can survive; it goes on from the last checkpoint."""


def either(names: Iterable[str]) -> str:
    """Return names as a choice for the fix that an error proposes, such as `dpo, kto or grpo`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last

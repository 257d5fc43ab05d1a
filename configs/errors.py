"""The errors that a user reads: one to three lines that name the place, the value, the rule and the fix.

`pyflyte` prints a traceback for every exception but click's own. So these errors derive from click's `Exit`, with the
message as the exit code: `sys.exit` prints a text to stderr and exits with status 1. In a pod they are ordinary
exceptions, and Flyte records their message.

A message may quote what a stranger wrote, so no error holds a character that hides or reorders text. Line breaks stay,
since our own messages have them: what is quoted goes through `one_line` or a function that does
(tests/test_printed.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from signal import SIGINT, Signals
from types import TracebackType
from typing import NamedTuple

from click.exceptions import Exit

from configs.addresses import without_secrets


class WithoutTrace:
    """Base of exceptions whose `__traceback__` reads as None, so that Flyte's error text begins with the message.

    Python itself keeps the frames elsewhere: a debugger, pytest and `logging.exception` still show them.
    """

    @property
    def __traceback__(self) -> TracebackType | None:
        return None

    @__traceback__.setter
    def __traceback__(self, trace: TracebackType | None) -> None:
        # contextlib sets it; Python re-raises with the frames that it has kept
        return


class FineTuneError(WithoutTrace, Exit):
    """Base of all deliberate errors; `str(error)` is the whole message, printable and without secrets."""

    def __init__(self, message: str) -> None:
        super().__init__(0)
        message = without_secrets(message)
        self.args = (message,)
        self.message = message
        self.exit_code = f"Error: {message}"  # type: ignore[misc, assignment]

    def __str__(self) -> str:
        return self.message

    def __reduce__(self) -> tuple[type[FineTuneError], tuple[str]]:
        return type(self), (self.message,)


class ConfigFault(NamedTuple):
    """One wrong setting: its path, the value that was found (empty where there is none to show), and the rule."""

    path: str
    value: str
    rule: str


class ConfigError(FineTuneError, ValueError):
    """A config names something that does not exist, or its values contradict one another or the model.

    `faults` holds all faults of a config that does not validate; the message names only the first of them.
    """

    def __init__(self, message: str, faults: Sequence[ConfigFault] = ()) -> None:
        super().__init__(message)
        self.faults = tuple(faults)


class DataError(FineTuneError):
    """Rows or files cannot be used; the message names file and row, and never shows their content."""


class ModelError(FineTuneError):
    """A model cannot be loaded, or the config does not allow it."""


class ArtifactError(FineTuneError):
    """An artifact of an earlier step is missing or incomplete, or the disk is full."""


class HubError(FineTuneError):
    """The hub refused a request or could not be reached; the message never contains the token."""


class UnreachableError(FineTuneError):
    """A server did not answer at all: there is no route to it, its name is unknown, or network access is not allowed.

    The classes below also derive from `HubError`, `ConfigError` or `DataError`, so that code which catches one of those
    catches them too.
    """


class UnreachableHubError(UnreachableError, HubError):
    """The hub cannot be reached."""


class UnreachableTrackerError(UnreachableError, ConfigError):
    """The tracker that a config names cannot be reached."""


class UnreachableStoreError(UnreachableError, DataError):
    """The store or web server of an address cannot be reached."""


class RegistrationError(FineTuneError):
    """The cluster refused a registration or an execution, or cannot be reached."""


def stopped_by(signal_number: int) -> str:
    """Return the words for a run that a signal has ended."""
    return "stopped by the user" if signal_number == SIGINT else f"stopped by {Signals(signal_number).name}"


class InterruptedRunError(FineTuneError):
    """A signal ended the run, such as that of Ctrl-C."""

    signal_number: int = SIGINT


class DivergedError(FineTuneError):
    """Training diverged: the loss is not a number, jumped, or kept rising."""


class RetryError(FineTuneError):
    """A failure that may not happen again: another attempt resumes from the last checkpoint."""


def either(names: Iterable[str]) -> str:
    """Return names as a choice for the fix that an error proposes, such as `dpo, kto or grpo`."""
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last

"""Shows what failed: a pod's error text begins with the message, and its first Deck is the error.

flytekit prints all frames before an error's message, and the console's lists show only the first 100 characters.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

import flytekit
from flytekit import Deck
from flytekit.exceptions.base import FlyteException
from flytekit.exceptions.user import FlyteRecoverableException
from flytekit.extend import IgnoreOutputs
from flytekit.loggers import logger

import tasks.runtime.laptop_run as laptop_run
import tasks.runtime.leftovers as leftovers
from configs.addresses import without_secrets
from configs.errors import ConfigFault, FineTuneError, RetryError, WithoutTrace
from configs.printable import make_printable, one_line, print_line, printable
from tasks.files.full_disk import full_disk_error
from tasks.runtime.pods import is_laptop_run

ERROR_DECK = "error"
Inputs = ParamSpec("Inputs")
Output = TypeVar("Output")


class ShownError(WithoutTrace, FlyteException):
    """An error as Flyte shows it: a name, and a message without frames before it.

    `faults` are those of a config that did not validate.
    """

    _ERROR_CODE = "USER:RuntimeError"
    faults: tuple[ConfigFault, ...] = ()

    def __str__(self) -> str:
        return str(self.args[0])


class ShownRecoverableError(ShownError, FlyteRecoverableException):
    """An error after which Flyte starts another attempt, as often as the task's retries allow."""

    _ERROR_CODE = "USER:Recoverable"


def shown_error(name: str, message: str, is_recoverable: bool = False, timestamp: float | None = None) -> ShownError:
    """Return an error that reads `name: message` in the console; `timestamp` is in seconds since the epoch."""
    base = ShownRecoverableError if is_recoverable else ShownError
    name, message = one_line(name), printable(message)
    # a traceback prints the module before the class's name, except for Python's own: 15 of the list's 100 characters
    return type(name, (base,), {"__module__": "builtins"})(without_secrets(message), timestamp=timestamp)


def publish_error(error: Exception) -> None:
    """Put the error's Deck before all others and publish it, if the task has Decks."""
    from tasks.decks import html
    from tasks.decks.error import render_defect, render_error

    context, name = flytekit.current_context(), type(error).__name__
    body = render_error(name, str(error), error.faults) if isinstance(error, ShownError) else render_defect(name)
    context.decks.insert(0, Deck(ERROR_DECK, html.fragment(body), auto_add_to_deck=False))
    if context.enable_deck:
        Deck.publish()


def shows_errors(
    function: Callable[Inputs, Output], publish: Callable[[Exception], None] = publish_error
) -> Callable[Inputs, Output]:
    """Decorate a task's function: in a pod, an error becomes the first Deck, and ours loses its frames.

    `publish` shows the error's Deck. On a laptop the error stays as it is, and the step is noted, for Ctrl-C. An error
    that is not ours keeps its trace; characters that hide in its text become escapes, as flytekit prints it as it is.
    """

    @wraps(function)
    def showing(*args: Inputs.args, **kwargs: Inputs.kwargs) -> Output:
        is_laptop = is_laptop_run()
        if is_laptop:
            leftovers.begin()
        stage = function.__module__.removeprefix("tasks.").removesuffix(".task")
        # the local cache has named its own steps, and a dynamic task is none
        is_step = is_laptop and not laptop_run.step_under_way() and "." not in stage
        if is_step:
            laptop_run.begin_step(stage)
        try:
            result = function(*args, **kwargs)
            if is_step:
                laptop_run.end_step()
            return result
        except IgnoreOutputs:
            raise
        except Exception as fault:
            make_printable(fault)
            error = full_disk_error(fault, written_to=laptop_run.folders_written_to()) or fault
            if is_laptop:
                laptop_run.end_step()
                if error is not fault:
                    raise error from fault
                raise
            shown = _as_shown(error)
            _try_to_publish(publish, shown or error)
            if shown is None:
                raise
            # at flytekit's level INFO the log has the frames
            logger.info("the frames of the error below\n%s", without_secrets(traceback.format_exc()))
            raise shown from None

    return showing


def _try_to_publish(publish: Callable[[Exception], None], error: Exception) -> None:
    try:
        publish(error)
    # no error of the Deck may take the place of the task's
    except Exception as fault:
        what = without_secrets(repr(fault))[:200]
        print_line(f"warning: the Deck of the error below is not shown: {what}")


def _as_shown(error: Exception) -> ShownError | None:
    """Return the error as Flyte shows it; None for one that is not ours."""
    if isinstance(error, ShownError):
        return error
    if not isinstance(error, FineTuneError):
        return None
    shown = shown_error(type(error).__name__, error.message, isinstance(error, RetryError))
    shown.faults = getattr(error, "faults", ())
    return shown

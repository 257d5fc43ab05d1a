"""How a run on a laptop ends at the command line: what is kept, one line for Ctrl-C and SIGTERM, and nothing else left.

`pyflyte` is a group of click's; errors pass its `invoke` last, before click and Python show them. For Ctrl-C flytekit
has a handler that exits with status 1 and no word, after those that are added to it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from contextlib import suppress
from typing import Any

from click import Context, Group
from flytekit.core.context_manager import FlyteContextManager

from configs.errors import FineTuneError, InterruptedRunError, stopped_by
from configs.printable import one_line, print_line

_CHILD_SECONDS = 2.0


def end_readably(main: Group) -> None:
    """Make errors of `main` end with the place of the models that a run has made, and Ctrl-C be one line."""
    invoke = main.invoke

    def invoke_readably(context: Context) -> Any:
        import tasks.runtime.leftovers as leftovers

        leftovers.allow()
        _handle_signals()
        try:
            return invoke(context)
        except InterruptedRunError as error:
            _say_stopped(error.message)
            sys.exit(128 + error.signal_number)
        except FineTuneError as error:
            error.exit_code = "\n".join([str(error.exit_code), *map(one_line, _kept())])  # type: ignore[misc, assignment]
            raise
        except SystemExit as end:
            # flytekit has printed the trace of an error that nobody foresaw
            if end.code:
                for line in _kept():
                    print_line(line, sys.stderr)
            raise
        finally:
            leftovers.clean()

    main.invoke = invoke_readably  # type: ignore[method-assign, assignment]
    FlyteContextManager.add_signal_handler(_stop)


def _handle_signals() -> None:
    """Have the signals by which others end a run end it as Ctrl-C does, unless they are ignored, as with nohup."""
    if threading.current_thread() is not threading.main_thread():
        return
    for number in (signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _stop)


def _stop(number: int, frame: Any) -> None:
    """Say where the next run goes on, and end this process at once: some libraries catch all that is raised in them."""
    import tasks.runtime.laptop_run as laptop_run
    import tasks.runtime.leftovers as leftovers

    step = laptop_run.step_under_way()
    again = "run the same command again" + (f" to go on from {step}" if step else "")
    _say_stopped(f"{stopped_by(number)}; {again}")
    children = multiprocessing.active_children()
    for child in children:
        child.terminate()
    for child in children:
        child.join(_CHILD_SECONDS)
    leftovers.clean()
    os._exit(128 + number)


def _say_stopped(message: str) -> None:
    # a second Ctrl-C must not interrupt the end
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    # Python refuses to flush a stream in the midst of whose writing the signal came
    with suppress(RuntimeError):
        sys.stdout.flush()
    os.write(sys.stderr.fileno(), (one_line("; ".join([message, *_kept()])) + "\n").encode())


def _kept() -> list[str]:
    # imported here: flytekit imports this module while it is being imported itself
    import tasks.runtime.laptop_run as laptop_run

    line = laptop_run.kept_line()
    return [line] if line else []

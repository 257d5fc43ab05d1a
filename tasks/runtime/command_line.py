"""How a run on a laptop ends at the command line if it does not end well: what is kept, and one line for Ctrl-C.

`pyflyte` is a group of click's; errors pass its `invoke` last, before click and Python show them. For Ctrl-C flytekit
has a handler that exits with status 1 and no word, after those that are added to it.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from contextlib import suppress
from typing import Any

from click import Context, Group
from flytekit.core.context_manager import FlyteContextManager

from configs.errors import FineTuneError, InterruptedRunError
from configs.printable import one_line, print_line

STATUS_OF_CTRL_C = 128 + signal.SIGINT


def end_readably(main: Group) -> None:
    """Make errors of `main` end with the place of the models that a run has made, and Ctrl-C be one line."""
    invoke = main.invoke

    def invoke_readably(context: Context) -> Any:
        try:
            return invoke(context)
        except InterruptedRunError as error:
            _say_stopped(error.message)
            sys.exit(STATUS_OF_CTRL_C)
        except FineTuneError as error:
            error.exit_code = "\n".join([str(error.exit_code), *map(one_line, _kept())])  # type: ignore[misc, assignment]
            raise
        except SystemExit as end:
            # flytekit has printed the trace of an error that nobody foresaw
            if end.code:
                for line in _kept():
                    print_line(line, sys.stderr)
            raise

    main.invoke = invoke_readably  # type: ignore[method-assign, assignment]
    FlyteContextManager.add_signal_handler(_stop)


def _stop(number: int, frame: Any) -> None:
    """Say where the next run goes on, and end this process at once: some libraries catch all that is raised in them."""
    import tasks.runtime.laptop_run as laptop_run

    step = laptop_run.step_under_way()
    _say_stopped("stopped by the user; run the same command again" + (f" to go on from {step}" if step else ""))
    for child in multiprocessing.active_children():
        child.terminate()
    os._exit(STATUS_OF_CTRL_C)


def _say_stopped(message: str) -> None:
    # a second Ctrl-C must not interrupt the end
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # Python refuses to flush a stream in the midst of whose writing the signal came
    with suppress(RuntimeError):
        sys.stdout.flush()
    os.write(sys.stderr.fileno(), (one_line("; ".join([message, *_kept()])) + "\n").encode())


def _kept() -> list[str]:
    # imported here: flytekit imports this module while it is being imported itself
    import tasks.runtime.laptop_run as laptop_run

    line = laptop_run.kept_line()
    return [line] if line else []

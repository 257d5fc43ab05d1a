"""Flyte's torch elastic task, configured when it runs, with errors that a user can read.

Flyte's plug-in fixes processes, restarts and timeouts when a task is declared, and reports a failed process as a
`ChildFailedError`. Here these settings come from the task's inputs, and the error is that of the first process that
failed.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import flytekit
from flytekit.core import constants
from flytekit.deck.deck import DECK_FILE_NAME
from flytekit.exceptions.base import FlyteException
from flytekit.exceptions.user import FlyteRecoverableException, FlyteUserRuntimeException
from flytekit.extend import IgnoreOutputs, TaskPlugins
from flytekitplugins.kfpytorch import Elastic
from flytekitplugins.kfpytorch.task import PytorchElasticFunctionTask

import tasks.runtime.leftovers as leftovers
from configs import errors
from configs.errors import FineTuneError, InterruptedRunError, RetryError, WithoutTrace, stopped_by
from configs.printable import one_line, printable
from configs.schema.cluster import ClusterConfig
from configs.schema.train import TrainConfig
from tasks.runtime.other_machines import ERROR_FILES, first_error, written_files
from tasks.runtime.pods import is_laptop_run
from tasks.runtime.shown_errors import publish_error, shown_error, shows_errors
from tasks.runtime.worker_faults import WorkerFault, earliest_fault, fault_of_worker, run_worker

_OUTPUTS_WAIT_SECONDS = 300
_TORCH_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT)


def _do_nothing(folder: Path) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass
class ConfiguredElastic(Elastic):
    """`Elastic` for a task whose inputs `config: TrainConfig` and `cluster: ClusterConfig` set all but `nnodes`.

    `before_launch` is called in every pod before its processes start. `while_running` is entered in every pod while its
    processes run; it gets the folder that they share with their launcher, and must not raise.
    """

    before_launch: Callable[[], None] | None = None
    while_running: Callable[[Path], AbstractContextManager[None]] = field(default=_do_nothing)


class TrainingDefectError(WithoutTrace, FlyteException):
    """An error that nobody has foreseen, of the first process that failed; the message ends with its trace."""

    _ERROR_CODE = "USER:Training"

    def __str__(self) -> str:
        return str(self.args[0])


class ConfiguredElasticTask(PytorchElasticFunctionTask):
    """An elastic task that reads its processes, restarts and timeouts from its inputs."""

    def execute(self, **kwargs: Any) -> Any:
        """Run the task function in `config.processes_per_node` processes; return rank 0's result.

        Raises:
            ShownError: a process failed, and would fail again; on a laptop, the process's own error.
            ShownRecoverableError: another attempt may succeed; on a laptop, RetryError.
            TrainingDefectError: a process failed with an error that is not ours.
            InterruptedRunError: Ctrl-C on a laptop.
            IgnoreOutputs: rank 0 ran on another machine, which has written the outputs.
        """
        return shows_errors(self._launch, self._publish_error)(**kwargs)

    def _launch(self, **kwargs: Any) -> Any:
        config, cluster = cast(TrainConfig, kwargs["config"]), cast(ClusterConfig, kwargs["cluster"])
        declared, function = cast(ConfiguredElastic, self.task_config), cast(Callable[..., Any], self.task_function)
        if declared.before_launch is not None:
            declared.before_launch()
        # by default torch's store outlives a restart, and processes find addresses of processes that have ended
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        # in memory: a full disk is one of the faults to record
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="fine-tune-launch-", dir=memory) as folder:
            leftovers.belongs(Path(folder))
            self._task_config = launch_config(declared, config, cluster)
            self._task_function: Callable[..., Any] = partial(run_worker, function, folder)
            try:
                with declared.while_running(Path(folder)), _restored_signals():
                    return super().execute(**kwargs)
            except (FlyteRecoverableException, FlyteUserRuntimeException) as error:
                failed = error.value if isinstance(error, FlyteUserRuntimeException) else error.__context__
                if not hasattr(failed, "get_first_failure"):
                    raise
                raise _first_failure(failed, Path(folder), cluster) from None
            except IgnoreOutputs as ignored:
                if isinstance(ignored.__context__, _torch_errors()[0]):
                    raise _interruption(ignored.__context__, Path(folder)) from None
                _await_outputs()
                raise
            except _torch_errors()[1] as error:
                raise _join_failure(error, config, cluster) from None
            finally:
                self._task_config, self._task_function = declared, function

    def _publish_error(self, error: Exception) -> None:
        """Show the error as a Deck, unless this machine has no other Deck and a page of another machine is there.

        All machines of a job write one page; that of rank 0's machine has the curves. The error that another machine
        has reported is shown in place of this one's, which follows from it.
        """
        if not flytekit.current_context().decks and DECK_FILE_NAME in written_files():
            self._disable_deck = True
            return
        first = first_error()
        publish_error(shown_error(*first) if first else error)


TaskPlugins.register_pythontask_plugin(ConfiguredElastic, ConfiguredElasticTask)


def launch_config(declared: Elastic, config: TrainConfig, cluster: ClusterConfig) -> Elastic:
    """Return `declared` with the processes, restarts and timeouts of the config."""
    seconds = cluster.join_timeout_seconds
    return replace(
        declared,
        nproc_per_node=config.processes_per_node,
        max_restarts=cluster.max_restarts,
        # the first machine, which hosts the store, may come last: all waits have the same timeout
        rdzv_configs={"timeout": seconds, "join_timeout": seconds, "read_timeout": seconds},
    )


@contextmanager
def _restored_signals() -> Iterator[None]:
    """On a laptop, put back the handlers of the signals that torch elastic handles: it leaves its own in place.

    They would raise torch's error in every later step, which no step expects.
    """
    if not is_laptop_run() or threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in _TORCH_SIGNALS}
    # on Ctrl-C the launcher would log a warning beside the error's line; it sets the logger's level when it is imported
    logging.getLogger("torch.distributed.elastic.agent.server.api").disabled = True
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler or signal.SIG_DFL)


def _torch_errors() -> tuple[type[Exception], type[Exception]]:
    """Return torch elastic's error classes for a signal, and for machines that fail to join."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    return SignalException, RendezvousError


def _recoverable(message: str, timestamp: float | None = None) -> Exception:
    """Return the error that makes Flyte start another attempt; a laptop's run has no retries and only shows it."""
    return RetryError(message) if is_laptop_run() else shown_error(RetryError.__name__, message, True, timestamp)


def _first_failure(failed: Any, folder: Path, cluster: ClusterConfig) -> Exception:
    """Return the error of this machine's first process that failed. `failed` is torch's `ChildFailedError`."""
    rank, first = failed.get_first_failure()
    fault = earliest_fault(folder)
    if (fault is None or fault.is_recoverable) and fault_of_worker(folder, first.local_rank) is None:
        # faults of other processes are only consequences: they lost their connection to this one
        if first.exitcode < 0:
            return _recoverable(_kill_message(rank, -first.exitcode, cluster), first.timestamp)
        message = f"rank {rank} ended with exit status {first.exitcode}, and left no error"
        return shown_error("TrainingError", message, timestamp=first.timestamp)
    assert fault is not None
    if fault.is_recoverable:
        return _recoverable(fault.message, fault.seconds)
    return _error_of(fault)


def _error_of(fault: WorkerFault) -> Exception:
    kind = getattr(errors, fault.kind, None)
    if not (isinstance(kind, type) and issubclass(kind, FineTuneError)):
        place = f"rank {fault.rank} of machine {fault.node}"
        message = f"{place} failed: {one_line(fault.kind)}\n{printable(fault.traceback)}"
        return TrainingDefectError(message, timestamp=fault.seconds)
    # Flyte shows the error of the machine whose process failed first
    return kind(fault.message) if is_laptop_run() else shown_error(fault.kind, fault.message, timestamp=fault.seconds)


def _kill_message(rank: int, signal_number: int, cluster: ClusterConfig) -> str:
    name = signal.Signals(signal_number).name
    if signal_number == signal.SIGBUS:
        return (
            f"rank {rank} was killed by {name}: /dev/shm is full\n"
            f"raise train.cluster.shared_memory_gib (now {cluster.shared_memory_gib or 'all memory of the pod'})"
        )
    if signal_number == signal.SIGKILL:
        gib = cluster.memory_gib_per_process
        return (
            f"rank {rank} was killed by {name}: the machine went away, or its memory was used up\n"
            "if every attempt ends like this, raise train.cluster.memory_gib_per_process"
            + (f" (now {gib})" if gib else "")
        )
    return f"rank {rank} was killed by {name}"


def _interruption(signal_error: BaseException, folder: Path) -> Exception:
    """Return the error for a signal that ended this machine's processes. `signal_error` is torch's."""
    number = int(getattr(signal_error, "sigval", signal.SIGTERM))
    fault = earliest_fault(folder)
    # the message of a process that had time to save
    saved = re.search(r"after (step \d+); its checkpoint is saved", fault.message if fault else "")
    if is_laptop_run():
        step = f" ({saved[1]})" if saved else ""
        stopped = InterruptedRunError(
            f"{stopped_by(number)}; run the same command again to go on from the last checkpoint{step}"
        )
        stopped.signal_number = number
        return stopped
    name = signal.Signals(number).name
    outcome = f"saved after {saved[1]}" if saved else "the next attempt resumes from the last checkpoint"
    return _recoverable(f"preempted: the machine was asked to stop ({name}); {outcome}")


def _join_failure(error: Exception, config: TrainConfig, cluster: ClusterConfig) -> Exception:
    """Return the error for machines that did not join one another."""
    kind = type(error).__name__
    if kind == "RendezvousClosedError":
        return _recoverable("another machine ended the run before this one could join it; its error says why")
    if kind == "RendezvousConnectionError":
        return _recoverable(
            f"train.nodes={config.nodes}: the first machine could not be reached, or has ended already; if so, its own "
            "error says why"
        )
    return _recoverable(
        f"train.nodes={config.nodes}: not all machines joined within train.cluster.join_timeout_seconds="
        f"{cluster.join_timeout_seconds}\n"
        "check that the cluster has so many machines of this kind; else lower train.nodes, set a range such as 1:5, or "
        "raise the timeout"
    )


def _await_outputs() -> None:
    """Return once rank 0's machine has written the task's outputs: a job counts as done when its first pod ends.

    After `_OUTPUTS_WAIT_SECONDS` this machine ends too: its work is done, and rank 0's machine reports its own error.
    """
    if not flytekit.current_context().output_metadata_prefix:
        return
    deadline = time.monotonic() + _OUTPUTS_WAIT_SECONDS
    while time.monotonic() < deadline:
        if any(name == constants.OUTPUT_FILE_NAME or name.startswith(ERROR_FILES) for name in written_files()):
            return
        time.sleep(1)

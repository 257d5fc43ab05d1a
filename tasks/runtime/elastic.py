"""Torch elastic as Flyte's plug-in starts it, shaped by the config when it runs, with errors that a user can read.

The plug-in fixes processes, restarts and timeouts when a task is declared, and reports a failed process as a
`ChildFailedError`. Here they are read from the task's own inputs, and the first process that failed is heard.
"""

from __future__ import annotations

import os
import re
import signal
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import flytekit
from flytekit.core import constants
from flytekit.core.context_manager import FlyteContextManager
from flytekit.deck import DeckField
from flytekit.exceptions.base import FlyteException
from flytekit.exceptions.user import FlyteRecoverableException, FlyteUserRuntimeException
from flytekit.extend import IgnoreOutputs, TaskPlugins
from flytekitplugins.kfpytorch import Elastic
from flytekitplugins.kfpytorch.task import PytorchElasticFunctionTask

from configs import errors
from configs.errors import FineTuneError, InterruptedRunError, RetryError
from configs.schema.cluster import ClusterConfig
from configs.schema.train import TrainConfig
from tasks.runtime.pods import is_laptop_run
from tasks.runtime.worker_faults import WorkerFault, earliest_fault, fault_of_worker, run_worker

_OUTPUTS_WAIT_SECONDS = 300


def _alone(folder: Path) -> AbstractContextManager[None]:
    return nullcontext()


@dataclass
class ConfiguredElastic(Elastic):
    """`Elastic` for a task with inputs `config: TrainConfig` and `cluster: ClusterConfig`, which decide at run time all
    but `nnodes`. `before_launch` is called in each pod before any process starts. `while_running` is entered in each
    pod around its processes; it is given the folder that they share with their launcher, and must not raise."""

    before_launch: Callable[[], None] | None = None
    while_running: Callable[[Path], AbstractContextManager[None]] = field(default=_alone)


class TrainingError(FlyteException):
    """What ended the first process that failed. `error` is what a user is to read, or a defect's own traceback."""

    _ERROR_CODE = "USER:Training"

    def __init__(self, error: Exception, timestamp: float | None = None) -> None:
        super().__init__(str(error), timestamp=timestamp)
        self.error = error

    def __str__(self) -> str:
        return str(self.error)


class RecoverableTrainingError(FlyteRecoverableException):
    """A fault after which Flyte tries again, as often as train.cluster.retries says."""

    def __str__(self) -> str:
        return str(self.args[0])


class ConfiguredElasticTask(PytorchElasticFunctionTask):
    """An elastic task whose processes, restarts and timeouts are those of its inputs."""

    def execute(self, **kwargs: Any) -> Any:
        """Run the task function in `config.processes_per_node` processes; return rank 0's result.

        Raises:
            TrainingError: a process failed, and would fail again.
            RecoverableTrainingError: a fault that another try can survive; on a laptop RetryError.
            InterruptedRunError: Ctrl-C, on a laptop.
            IgnoreOutputs: rank 0 ran on another machine, and its outputs are there.
        """
        config, cluster = cast(TrainConfig, kwargs["config"]), cast(ClusterConfig, kwargs["cluster"])
        declared, function = cast(ConfiguredElastic, self.task_config), cast(Callable[..., Any], self.task_function)
        if declared.before_launch is not None:
            declared.before_launch()
        # by default torch's store outlives a restart, and processes find the addresses of those that are gone
        os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        # in memory: a full disk is one of the faults to be written down
        memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        with tempfile.TemporaryDirectory(prefix="fine-tune-launch-", dir=memory) as folder:
            self._task_config = launch_config(declared, config, cluster)
            self._task_function: Callable[..., Any] = partial(run_worker, function, folder)
            try:
                with declared.while_running(Path(folder)):
                    return super().execute(**kwargs)
            except (FlyteRecoverableException, FlyteUserRuntimeException) as error:
                self._leave_deck_to_rank_0()
                failed = error.value if isinstance(error, FlyteUserRuntimeException) else error.__context__
                if not hasattr(failed, "get_first_failure"):
                    raise
                raise _explained(failed, Path(folder), cluster) from None
            except IgnoreOutputs as stopped:
                if isinstance(stopped.__context__, _torch_errors()[0]):
                    raise _interrupted(stopped.__context__, Path(folder)) from None
                _await_outputs()
                raise
            except _torch_errors()[1] as error:
                raise _not_joined(error, config, cluster) from None
            finally:
                self._task_config, self._task_function = declared, function

    def _leave_deck_to_rank_0(self) -> None:
        """Let a machine that has shown nothing write no Deck: its empty page would take the place of rank 0's."""
        shown = {deck.name for deck in flytekit.current_context().decks} - {DeckField.TIMELINE.value}
        if not shown and not is_laptop_run():
            self._disable_deck = True


TaskPlugins.register_pythontask_plugin(ConfiguredElastic, ConfiguredElasticTask)


def launch_config(declared: Elastic, config: TrainConfig, cluster: ClusterConfig) -> Elastic:
    """Return `declared` with the processes, restarts and timeouts of the config."""
    seconds = cluster.join_timeout_seconds
    return replace(
        declared,
        nproc_per_node=config.processes_per_node,
        max_restarts=cluster.max_restarts,
        # the first machine may come as late as the last: to wait for its store is to wait for it
        rdzv_configs={"timeout": seconds, "join_timeout": seconds, "read_timeout": seconds},
    )


def _torch_errors() -> tuple[type[Exception], type[Exception]]:
    """Return torch elastic's error for a signal, and that for machines that do not come together."""
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.rendezvous.api import RendezvousError

    return SignalException, RendezvousError


def _recoverable(message: str, timestamp: float | None = None) -> Exception:
    """Return what makes Flyte try again; a laptop's run has no retries, and is told so by the message alone."""
    return RetryError(message) if is_laptop_run() else RecoverableTrainingError(message, timestamp=timestamp)


def _explained(failed: Any, folder: Path, cluster: ClusterConfig) -> Exception:
    """Return the error of the first process of this machine that failed. `failed` is torch's `ChildFailedError`."""
    rank, first = failed.get_first_failure()
    fault = earliest_fault(folder)
    if (fault is None or fault.is_recoverable) and fault_of_worker(folder, first.local_rank) is None:
        # the others have only noticed that it is gone
        if first.exitcode < 0:
            return _recoverable(_killed(rank, -first.exitcode, cluster), first.timestamp)
        message = f"rank {rank} ended with exit status {first.exitcode}, and left no error"
        return TrainingError(RuntimeError(message), timestamp=first.timestamp)
    assert fault is not None
    if fault.is_recoverable:
        return _recoverable(fault.message, fault.seconds)
    error = _error_of(fault)
    if is_laptop_run() and isinstance(error, FineTuneError):
        return error
    return TrainingError(error, timestamp=fault.seconds)


def _error_of(fault: WorkerFault) -> Exception:
    kind = getattr(errors, fault.kind, None)
    if isinstance(kind, type) and issubclass(kind, FineTuneError):
        return kind(fault.message)
    return RuntimeError(f"rank {fault.rank} of machine {fault.node} failed\n{fault.traceback}")


def _now(gib: int | None) -> str:
    return f" (now {gib})" if gib else ""


def _killed(rank: int, number: int, cluster: ClusterConfig) -> str:
    name = signal.Signals(number).name
    if number == signal.SIGBUS:
        return (
            f"rank {rank} was killed by {name}: /dev/shm is full\n"
            f"raise train.cluster.shared_memory_gib (now {cluster.shared_memory_gib or 'all memory of the pod'})"
        )
    if number == signal.SIGKILL:
        return (
            f"rank {rank} was killed by {name}: the machine went away, or its memory was used up\n"
            f"if every try ends so, raise train.cluster.memory_gib_per_process"
            f"{_now(cluster.memory_gib_per_process)}"
        )
    return f"rank {rank} was killed by {name}"


def _interrupted(stopped: BaseException, folder: Path) -> Exception:
    fault = earliest_fault(folder)
    # the words of a process that had the time to save
    saved = re.search(r"after (step \d+); its checkpoint is saved", fault.message if fault else "")
    if is_laptop_run():
        step = f" ({saved[1]})" if saved else ""
        return InterruptedRunError(
            f"training was interrupted; run the same command again: it goes on from the last checkpoint{step}"
        )
    name = signal.Signals(getattr(stopped, "sigval", signal.SIGTERM)).name
    outcome = f"saved after {saved[1]}" if saved else "the next try goes on from the last checkpoint"
    return RecoverableTrainingError(f"preempted: the machine was asked to stop ({name}); {outcome}")


def _not_joined(error: Exception, config: TrainConfig, cluster: ClusterConfig) -> Exception:
    """Return the error for machines that did not come together."""
    kind = type(error).__name__
    if kind == "RendezvousClosedError":
        return _recoverable("another machine ended the run before this one could join it; its error says why")
    if kind == "RendezvousConnectionError":
        return _recoverable(
            f"train.nodes={config.nodes}: the first machine could not be reached, or has ended already; if it has, its "
            "own error says why"
        )
    return _recoverable(
        f"train.nodes={config.nodes}: not all machines joined within train.cluster.join_timeout_seconds="
        f"{cluster.join_timeout_seconds}\n"
        "can the cluster give so many machines of this kind? lower train.nodes, name a range such as 1:5, or raise it"
    )


def _await_outputs() -> None:
    """Return when rank 0's machine has written the task's outputs: a job counts as done when its first pod is.

    A machine that waited long ends all the same: its own work is done, and what is missing is the other's to tell.
    """
    context = FlyteContextManager.current_context()
    prefix = flytekit.current_context().output_metadata_prefix
    if not prefix:
        return
    files = context.file_access.get_filesystem_for_path(prefix)
    # where each machine reports its own error, the file's name begins so
    error = Path(constants.ERROR_FILE_NAME).stem
    deadline = time.monotonic() + _OUTPUTS_WAIT_SECONDS
    while time.monotonic() < deadline:
        files.invalidate_cache()
        written = [Path(path).name for path in files.ls(prefix, detail=False)] if files.exists(prefix) else []
        if any(name == constants.OUTPUT_FILE_NAME or name.startswith(error) for name in written):
            return
        time.sleep(1)

"""Records what ended each training process of a machine, for the launcher of these processes.

Torch elastic gives its launcher the text of one failed process, not always the first, and restarts all processes after
any error. From these records the launcher knows the first failure, and an error that would recur is not restarted.
"""

from __future__ import annotations

import json
import os
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from flytekit.exceptions.user import FlyteRecoverableException

from configs.addresses import first_line
from configs.printable import make_printable, print_line, printable

_LAUNCHER_WAIT_SECONDS = 3.0
_STORE_TIMEOUT = timedelta(seconds=10)
_STORE_KEY = "fine-tune/fault"
_FOLDER_VARIABLE = "FINE_TUNE_LAUNCH_FOLDER"


@dataclass(frozen=True)
class WorkerFault:
    """An error of a training process. `kind` is its class's name, `seconds` the time since the epoch."""

    rank: int
    node: int
    kind: str
    message: str
    traceback: str
    is_recoverable: bool
    seconds: float


class RepeatedFaultError(RuntimeError):
    """Raised after a restart, in place of the error that ended the processes before it."""


def run_worker(function: Callable[..., Any], folder: str, **kwargs: Any) -> Any:
    """Call a task function in a training process; record its error in `folder`, and raise it.

    Raises:
        RepeatedFaultError: before this restart, a process of any machine ended in an error that would recur.
    """
    launch, local_rank = Path(folder), _local_rank()
    os.environ[_FOLDER_VARIABLE] = folder
    recurring = [fault for fault in _faults(launch) if not fault.is_recoverable]
    if recurring:
        raise RepeatedFaultError(recurring[0].message)
    if local_rank == 0:
        _print_restart(_faults(launch))
    _file(launch, local_rank).unlink(missing_ok=True)
    # torch does not count restarts that another machine caused, so any start may be one
    shared_fault = _read_shared_fault()
    if shared_fault is not None:
        _write(launch, local_rank, replace(shared_fault, seconds=time.time()))
        raise RepeatedFaultError(shared_fault.message)
    try:
        return function(**kwargs)
    except FlyteRecoverableException as error:
        make_printable(error)
        _write(launch, local_rank, _fault(error, is_recoverable=True))
        # the usual cause is that another process was lost; the launcher, which polls once a second, must see that first
        time.sleep(_LAUNCHER_WAIT_SECONDS)
        raise
    except Exception as error:
        # the trace of this process goes to the log too
        make_printable(error)
        fault = _fault(error, is_recoverable=False)
        _write(launch, local_rank, fault)
        _share_fault(fault)
        raise


def launch_folder() -> Path | None:
    """Return the folder that this training process shares with its launcher; None in any other process."""
    folder = os.environ.get(_FOLDER_VARIABLE)
    return Path(folder) if folder else None


def _print_restart(faults: list[WorkerFault]) -> None:
    number, maximum = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    if number:
        cause = first_line(faults[0].message) if faults else "a process was killed, or another machine was lost"
        print_line(f"train: restart {number} of {maximum} within this attempt: {cause}")


def _launchers_store() -> Any:
    """Return the store through which the machines' launchers met, or None if there is none or it cannot be reached."""
    endpoint = os.environ.get("PET_RDZV_ENDPOINT")
    if not endpoint:
        return None
    from torch.distributed import DistError, TCPStore

    host, _, port = endpoint.rpartition(":")
    try:
        return TCPStore(host, int(port), None, False, timeout=_STORE_TIMEOUT, wait_for_workers=False)
    except DistError:
        return None


def _share_fault(fault: WorkerFault) -> None:
    """Share a fault with the other machines, whose processes would otherwise wait for this one after a restart."""
    store = _launchers_store()
    if store is not None:
        store.set(_STORE_KEY, json.dumps(asdict(fault)))


def _read_shared_fault() -> WorkerFault | None:
    """Return the fault that another machine shared because it would recur, or None."""
    store = _launchers_store()
    if store is None or not store.check([_STORE_KEY]):
        return None
    return WorkerFault(**json.loads(store.get(_STORE_KEY)))


def earliest_fault(folder: Path) -> WorkerFault | None:
    """Return the first recorded fault of this machine's processes, or None if none was recorded."""
    return next(iter(_faults(folder)), None)


def fault_of_worker(folder: Path, local_rank: int) -> WorkerFault | None:
    """Return the recorded fault of one process of this machine, or None if it ended without one."""
    file = _file(folder, local_rank)
    return WorkerFault(**json.loads(file.read_text(encoding="utf-8"))) if file.exists() else None


def _faults(folder: Path) -> list[WorkerFault]:
    faults = [WorkerFault(**json.loads(file.read_text(encoding="utf-8"))) for file in folder.glob("*.json")]
    return sorted(faults, key=lambda fault: fault.seconds)


def _fault(error: Exception, is_recoverable: bool) -> WorkerFault:
    return WorkerFault(
        rank=int(os.environ.get("RANK", "0")),
        node=int(os.environ.get("GROUP_RANK", "0")),
        kind=type(error).__name__,
        # Flyte's own exceptions put their code before the message
        message=printable(str(error.args[0]) if is_recoverable and error.args else str(error)),
        traceback=printable("".join(traceback.format_exception(error))),
        is_recoverable=is_recoverable,
        # it may follow from a fault on another machine, whose clock differs: that one must have the earlier time
        seconds=time.time() + (_LAUNCHER_WAIT_SECONDS if is_recoverable else 0.0),
    )


def _write(folder: Path, local_rank: int, fault: WorkerFault) -> None:
    partial = folder / f"{local_rank}.partial"
    partial.write_text(json.dumps(asdict(fault)), encoding="utf-8")
    partial.replace(_file(folder, local_rank))


def _file(folder: Path, local_rank: int) -> Path:
    return folder / f"{local_rank}.json"


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))

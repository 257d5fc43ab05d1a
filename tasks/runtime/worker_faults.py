"""What ended each training process of one machine, written down for the process that launched it.

Torch elastic hands its launcher one failed process, not always the first, as text, and starts all of them anew after
any error. With these notes the first is known, and an error that would come again is not tried again.
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

_PATIENCE_SECONDS = 3.0
_STORE_TIMEOUT = timedelta(seconds=10)
_STORE_KEY = "fine-tune/fault"
_FOLDER_VARIABLE = "FINE_TUNE_LAUNCH_FOLDER"


@dataclass(frozen=True)
class WorkerFault:
    """What a training process raised. `kind` is the class's name, `seconds` the time since the epoch."""

    rank: int
    node: int
    kind: str
    message: str
    traceback: str
    is_recoverable: bool
    seconds: float


class RepeatedFaultError(RuntimeError):
    """Raised in the place of an error that ended this machine's processes before they were started anew."""


def run_worker(function: Callable[..., Any], folder: str, **kwargs: Any) -> Any:
    """Call a task function in a training process; what it raises is noted in `folder`, and raised.

    Raises:
        RepeatedFaultError: before a restart, a process of any machine ended in an error that would come again.
    """
    notes, local_rank = Path(folder), _local_rank()
    os.environ[_FOLDER_VARIABLE] = folder
    last = [fault for fault in _faults(notes) if not fault.is_recoverable]
    if last:
        raise RepeatedFaultError(last[0].message)
    if local_rank == 0:
        _say_restart(_faults(notes))
    _file(notes, local_rank).unlink(missing_ok=True)
    # restarts for the sake of other machines are not counted, so that every start may be one
    elsewhere = _heard()
    if elsewhere is not None:
        _write(notes, local_rank, replace(elsewhere, seconds=time.time()))
        raise RepeatedFaultError(elsewhere.message)
    try:
        return function(**kwargs)
    except FlyteRecoverableException as error:
        _write(notes, local_rank, _fault(error, is_recoverable=True))
        # most often another process was lost: the launcher looks once a second, and is to see that one first
        time.sleep(_PATIENCE_SECONDS)
        raise
    except Exception as error:
        fault = _fault(error, is_recoverable=False)
        _write(notes, local_rank, fault)
        _tell(fault)
        raise


def launch_folder() -> Path | None:
    """Return the folder that this training process shares with its launcher; None outside of one."""
    folder = os.environ.get(_FOLDER_VARIABLE)
    return Path(folder) if folder else None


def _say_restart(faults: list[WorkerFault]) -> None:
    number, most = (int(os.environ.get(f"TORCHELASTIC_{name}", "0")) for name in ("RESTART_COUNT", "MAX_RESTARTS"))
    if number:
        why = faults[0].message.splitlines()[0] if faults else "a process was killed, or another machine lost"
        print(f"train: restart {number} of {most} within this try: {why}", flush=True)


def _launchers_store() -> Any:
    """Return the store in which the launchers of several machines met, or None where there is none to reach."""
    endpoint = os.environ.get("PET_RDZV_ENDPOINT")
    if not endpoint:
        return None
    from torch.distributed import DistError, TCPStore

    host, _, port = endpoint.rpartition(":")
    try:
        return TCPStore(host, int(port), None, False, timeout=_STORE_TIMEOUT, wait_for_workers=False)
    except DistError:
        return None


def _tell(fault: WorkerFault) -> None:
    """Let processes of other machines know, which would otherwise wait for this one after a restart."""
    store = _launchers_store()
    if store is not None:
        store.set(_STORE_KEY, json.dumps(asdict(fault)))


def _heard() -> WorkerFault | None:
    """Return what ended a process of another machine, if that would come again."""
    store = _launchers_store()
    if store is None or not store.check([_STORE_KEY]):
        return None
    return WorkerFault(**json.loads(store.get(_STORE_KEY)))


def earliest_fault(folder: Path) -> WorkerFault | None:
    """Return what the first process that failed had raised, if any process of this machine raised something."""
    return next(iter(_faults(folder)), None)


def fault_of_worker(folder: Path, local_rank: int) -> WorkerFault | None:
    """Return what one process of this machine had raised, or None when it ended without a word."""
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
        message=str(error.args[0]) if is_recoverable and error.args else str(error),
        traceback="".join(traceback.format_exception(error)),
        is_recoverable=is_recoverable,
        # clocks of machines differ, and what a fault here may follow from is to be the earlier one
        seconds=time.time() + (_PATIENCE_SECONDS if is_recoverable else 0.0),
    )


def _write(folder: Path, local_rank: int, fault: WorkerFault) -> None:
    partial = folder / f"{local_rank}.partial"
    partial.write_text(json.dumps(asdict(fault)), encoding="utf-8")
    partial.replace(_file(folder, local_rank))


def _file(folder: Path, local_rank: int) -> Path:
    return folder / f"{local_rank}.json"


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))

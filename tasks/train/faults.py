"""Tells faults of training apart: what another try can survive, what a user must mend, and defects of the program."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import torch.distributed as dist

from configs.errors import ArtifactError, FineTuneError, RetryError
from configs.schema.train import TrainConfig

# what gloo, NCCL and TCPStore say when a process or a machine is gone; they raise plain RuntimeErrors as well
_LOST_PEER = (
    "connection closed by peer",
    "connection reset by peer",
    "connection refused",
    "broken pipe",
    "timed out waiting",
    "application timeout caused pair closure",
    "socket timeout",
    "failed to recv, got 0 bytes",
    "failed to pass monitoredbarrier",
    "nccl communicator was aborted",
    "ncclremoteerror",
    "ncclsystemerror",
    "watchdog caught collective operation timeout",
    "connect timeout",
    "connectfullmesh failed",
)
_BROKEN_GPU = ("uncorrectable ecc error", "uncorrectable nvlink error", "hardware stack error")
_WRONG_USE = ("ncclinvalidusage", "ncclinvalidargument", "duplicate gpu detected")
_NO_MEMORY = (
    "cuda out of memory",
    "cuda error: out of memory",
    "cuda failure 2 'out of memory'",
    "cublas_status_alloc_failed",
    "defaultcpuallocator: can't allocate memory",
    "defaultcpuallocator: not enough memory",
    "std::bad_alloc",
)
# torch's writer of archives knows no more than that a part is missing
_DISK_FULL = ("no space left on device", "disk quota exceeded", ". unexpected pos ")
# libraries that speak to object stores, and retry themselves; flytekit hides their errors in these two
_STORE_LIBRARIES = {
    "aiobotocore",
    "aiohttp",
    "azure",
    "botocore",
    "gcsfs",
    "httpcore",
    "httpx",
    "obstore",
    "requests",
    "urllib3",
}
_FLYTE_TRANSFERS = {"FlyteUploadDataException", "FlyteDownloadDataException"}
_LAST_CHARACTERS = 300


@contextmanager
def told_apart(config: TrainConfig) -> Iterator[None]:
    """Raise what happens within as `fault_of` judges it.

    Raises:
        FineTuneError: as `fault_of` returns it; a defect is raised as it came.
    """
    try:
        yield
    except Exception as error:
        fault = fault_of(error, config)
        if fault is None or fault is error:
            raise
        raise fault from error


def fault_of(error: BaseException, config: TrainConfig) -> FineTuneError | None:
    """Return what a user, or Flyte, is to be told of `error`; None for a defect, whose own traceback says most.

    A RetryError is for another try: lost processes and machines, broken GPUs, an object store that stayed away. All
    others would come again. Memory that ran out is not judged here.
    """
    for each in _causes(error):
        if isinstance(each, FineTuneError):
            # a store that stayed away may be back for the next try
            return RetryError(each.message) if isinstance(each, ArtifactError) and _is_lost_transfer(each) else each
    for each in _causes(error):
        if is_disk_full(each):
            return _disk_full(each, config)
    text = _text(error)
    if any(words in text for words in _WRONG_USE):
        return None
    if any(words in text for words in _BROKEN_GPU):
        return RetryError(f"{_rank()}: the GPU reports a fault: {_first_line(error)}")
    if isinstance(error, dist.DistError) or _is_runtime_error_with(error, _LOST_PEER):
        return RetryError(f"{_rank()} lost the other processes: {_first_line(error)}")
    if _is_lost_transfer(error):
        return RetryError(f"{_rank()}: the network or the object store failed: {_first_line(error)}")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory of the GPU, or of the host, could not be allocated."""
    return any(
        isinstance(each, (torch.OutOfMemoryError, MemoryError)) or _is_runtime_error_with(each, _NO_MEMORY)
        for each in _causes(error)
    )


def is_disk_full(error: BaseException) -> bool:
    """Return whether a disk was full, or a quota used up. Writers in Rust and C++ say so in their text alone."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return True
    return any(words in str(error).lower() for words in _DISK_FULL)


def _disk_full(error: BaseException, config: TrainConfig) -> ArtifactError:
    name = error.filename if isinstance(error, OSError) else None
    folder = Path(os.fsdecode(name)).parent if name else Path(tempfile.gettempdir())
    now = f" (now {config.cluster.disk_gib})" if config.cluster.disk_gib else ""
    return ArtifactError(
        f"{folder}: the disk is full\nfree some space there; on a cluster raise train.cluster.disk_gib{now}"
    )


def _is_runtime_error_with(error: BaseException, texts: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in texts)


def _is_lost_transfer(error: BaseException) -> bool:
    """Return whether the network failed, and not what was asked of it: a missing file stays missing."""
    causes = list(_causes(error))
    if any(isinstance(each, (FileNotFoundError, PermissionError)) or is_disk_full(each) for each in causes):
        return False
    return any(_is_transfer(each) for each in causes)


def _is_transfer(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return any(
        kind.__name__ in _FLYTE_TRANSFERS or kind.__module__.partition(".")[0] in _STORE_LIBRARIES
        for kind in type(error).__mro__
    )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield `error` and what it was raised from."""
    seen: set[int] = set()
    each: BaseException | None = error
    while each is not None and id(each) not in seen:
        seen.add(id(each))
        yield each
        each = each.__cause__


def _text(error: BaseException) -> str:
    return "\n".join(str(each) for each in _causes(error)).lower()


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:_LAST_CHARACTERS] if lines else 'no reason given'}"


def _rank() -> str:
    return f"rank {os.environ.get('RANK', '0')}"

"""Sorts errors of training: what another attempt can survive, what a user must fix, and defects of the program."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

from configs.addresses import first_line
from configs.errors import ArtifactError, FineTuneError, RetryError
from configs.schema.train import TrainConfig
from tasks.files.full_disk import causes, full_disk_error, is_disk_full

# messages of gloo, NCCL and TCPStore when a process or a machine is gone; some come as plain RuntimeErrors
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
# libraries that access object stores, with retries of their own; flytekit wraps their errors in the two below
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
def translated_errors(config: TrainConfig) -> Iterator[None]:
    """Within the block, raise errors as `fault_of` returns them; a defect is raised unchanged.

    Raises:
        FineTuneError: as `fault_of` returns it.
    """
    try:
        yield
    except Exception as error:
        fault = fault_of(error, config)
        if fault is None or fault is error:
            raise
        raise fault from error


def fault_of(error: BaseException, config: TrainConfig) -> FineTuneError | None:
    """Return the error to show for `error`; None for a defect, for which its own traceback says most.

    A RetryError is for faults that another attempt can survive: lost processes and machines, broken GPUs, an object
    store that cannot be reached. All others would happen again. Memory that ran out is not handled here.
    """
    for cause in causes(error):
        if isinstance(cause, FineTuneError):
            # the store may be back for the next attempt
            return RetryError(cause.message) if isinstance(cause, ArtifactError) and _is_lost_transfer(cause) else cause
    full = _disk_full(error, config)
    if full is not None:
        return full
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
    """Return whether GPU or host memory could not be allocated."""
    return any(
        isinstance(cause, (torch.OutOfMemoryError, MemoryError)) or _is_runtime_error_with(cause, _NO_MEMORY)
        for cause in causes(error)
    )


def _disk_full(error: BaseException, config: TrainConfig) -> ArtifactError | None:
    now = f" (now {config.cluster.disk_gib})" if config.cluster.disk_gib else ""
    return full_disk_error(error, f"free some space there; on a cluster raise train.cluster.disk_gib{now}")


def _is_runtime_error_with(error: BaseException, texts: tuple[str, ...]) -> bool:
    text = str(error).lower()
    return isinstance(error, RuntimeError) and any(words in text for words in texts)


def _is_lost_transfer(error: BaseException) -> bool:
    """Return whether the network failed, and not the request: a missing file stays missing."""
    found = list(causes(error))
    if any(isinstance(cause, (FileNotFoundError, PermissionError)) or is_disk_full(cause) for cause in found):
        return False
    return any(_is_transfer(cause) for cause in found)


def _is_transfer(error: BaseException) -> bool:
    if isinstance(error, (ConnectionError, TimeoutError)):
        return True
    return any(
        kind.__name__ in _FLYTE_TRANSFERS or kind.__module__.partition(".")[0] in _STORE_LIBRARIES
        for kind in type(error).__mro__
    )


def _text(error: BaseException) -> str:
    return "\n".join(str(cause) for cause in causes(error)).lower()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(str(error), _LAST_CHARACTERS) or 'no reason given'}"


def _rank() -> str:
    return f"rank {os.environ.get('RANK', '0')}"

"""Faults are told apart: what another try survives, what a user must mend, and defects."""

from __future__ import annotations

import datetime
import errno
import socket
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from configs.errors import ArtifactError, ConfigError, DataError, RetryError
from configs.schema.cluster import ClusterConfig
from configs.schema.train import TrainConfig
from tasks.files.full_disk import is_disk_full
from tasks.train.faults import fault_of, is_out_of_memory, translated_errors

CONFIG = TrainConfig()


def raised(error: BaseException, cause: BaseException | None = None) -> BaseException:
    """Return `error` as it is caught, raised from `cause`."""
    try:
        raise error from cause
    except type(error) as caught:
        return caught


class FlyteUploadDataException(Exception):
    """Stands for flytekit's class, which training code may not import."""


class EndpointConnectionError(Exception):
    """Stands for botocore's class, which is not installed here."""

    __module__ = "botocore.exceptions"


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
        TimeoutError("timed out"),
        RuntimeError("[../gloo/transport/tcp/pair.cc:538] Connection closed by peer [10.0.0.7]:4312"),
        RuntimeError("[../gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 1800000ms for recv operation"),
        dist.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:2772, remote process exited or there was a network"),
        dist.DistStoreError("wait timeout after 300000ms, keys: /0"),
        torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered", 214),
        FlyteUploadDataException("upload failed"),
        EndpointConnectionError("could not connect to the endpoint"),
        raised(
            ArtifactError("checkpoint s3://b/c/x: ClientError after 5 attempts: slow down"),
            ConnectionError("slow down"),
        ),
    ],
    ids=lambda error: type(error).__name__,
)
def test_lost_machines_and_networks_are_for_another_try(error: BaseException) -> None:
    fault = fault_of(error, CONFIG)
    assert isinstance(fault, RetryError)
    assert str(error).splitlines()[0][:60] in str(fault)


def test_a_store_that_is_gone_is_for_another_try() -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    with pytest.raises(RetryError, match="rank 0 lost the other processes"), translated_errors(CONFIG):
        dist.TCPStore("localhost", port, 2, False, timeout=datetime.timedelta(seconds=1))


@pytest.mark.parametrize(
    "error",
    [ConfigError("train.seed=7"), DataError("rows.jsonl row 3"), RetryError("preempted")],
    ids=lambda error: type(error).__name__,
)
def test_deliberate_errors_pass_as_they_are(error: BaseException) -> None:
    assert fault_of(error, CONFIG) is error
    assert fault_of(raised(ValueError("while loading"), error), CONFIG) is error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("boom"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        dist.DistBackendError("NCCL error: ncclInvalidUsage: Duplicate GPU detected : rank 1 and rank 0"),
        raised(FlyteUploadDataException("download failed"), FileNotFoundError("s3://b/none")),
        raised(FlyteUploadDataException("upload failed"), PermissionError("access denied")),
        torch.AcceleratorError("CUDA error: device-side assert triggered", 710),
    ],
    ids=lambda error: str(error)[:30],
)
def test_defects_are_left_to_their_own_traceback(error: BaseException) -> None:
    assert fault_of(error, CONFIG) is None
    with pytest.raises(type(error)) as caught, translated_errors(CONFIG):
        raise error
    assert caught.value is error


def test_a_full_disk_names_the_folder_and_the_setting(tmp_path: Path) -> None:
    config = CONFIG.model_copy(update={"cluster": ClusterConfig(disk_gib=500)})
    with pytest.raises(ArtifactError) as caught, translated_errors(config):
        raise OSError(errno.ENOSPC, "No space left on device", str(tmp_path / "model.safetensors"))
    assert str(caught.value).startswith(f"{tmp_path}: the disk is full (mounted at /")
    assert "train.cluster.disk_gib (now 500)" in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        # of safetensors and of torch.save on a file system of 1 MiB
        "Error while serializing: I/O error: No space left on device (os error 28)",
        "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534",
    ],
)
def test_writers_that_know_no_error_number_are_understood(text: str) -> None:
    assert is_disk_full(RuntimeError(text))
    assert isinstance(fault_of(RuntimeError(text), CONFIG), ArtifactError)


def test_a_device_that_is_full_is_understood() -> None:
    full = Path("/dev/full")
    if not full.is_char_device():
        pytest.skip("this system has no /dev/full")
    with pytest.raises(ArtifactError, match="the disk is full"), translated_errors(CONFIG):
        full.write_text("x")


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB"),
        RuntimeError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        dist.DistBackendError("NCCL error: Cuda failure 2 'out of memory'"),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: 4 bytes"
        ),
        MemoryError(),
        raised(RuntimeError("in the backward pass"), torch.OutOfMemoryError("CUDA out of memory")),
    ],
    ids=lambda error: str(error)[:24],
)
def test_memory_that_ran_out_is_recognised(error: BaseException) -> None:
    assert is_out_of_memory(error)


def test_other_errors_are_not_taken_for_memory() -> None:
    for error in (ValueError("out of range"), RuntimeError("CUDA error: invalid device"), OSError(28, "No space left")):
        assert not is_out_of_memory(error)

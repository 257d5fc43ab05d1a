"""Memory and GPUs of a laptop or a workstation, read without torch; a script stands in for `nvidia-smi`."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
from support.plan_inputs import GPU_TYPES

from tasks.plan.hardware import this_machine as machine

TYPES = list(GPU_TYPES.values())


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Put an `nvidia-smi` that prints the given lines on the path."""

    def put(*lines: str, status: int = 0) -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines) + f"exit {status}\n")
        tool.chmod(tool.stat().st_mode | stat.S_IXUSR)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return put


def test_a_gpu_of_the_table_has_its_own_memory_and_the_tables_price(nvidia_smi) -> None:
    nvidia_smi("NVIDIA A100-SXM4-80GB, GPU-a, 81920, 8.0")
    target = machine.this_machine(TYPES)
    assert (target.name, target.memory_bytes, target.is_gpu) == ("A100-80GB", 81920 * 2**20, True)
    assert target.gpu is GPU_TYPES["A100-80GB"] and target.device.has_bfloat16


def test_a_gpu_that_is_not_in_the_table_has_memory_and_no_made_up_speed(nvidia_smi) -> None:
    nvidia_smi("NVIDIA GeForce GTX 1080, GPU-a, 8192, 6.1")
    target = machine.this_machine(TYPES)
    assert (target.name, target.memory_bytes) == ("NVIDIA GeForce GTX 1080", 8192 * 2**20)
    assert target.is_gpu and target.gpu is None and not target.device.has_bfloat16


@pytest.mark.parametrize(
    ("visible", "name"),
    [("1", "L4"), ("0,1", "T4"), ("", "CPU"), ("-1", "CPU")],
    ids=["second", "both", "", "-1"],
)
def test_the_target_is_among_the_gpus_that_cuda_may_see(
    nvidia_smi, monkeypatch: pytest.MonkeyPatch, visible: str, name: str
) -> None:
    nvidia_smi("Tesla T4, GPU-a, 15360, 7.5", "NVIDIA L4, GPU-b, 23034, 8.9")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert machine.this_machine(TYPES).name == name


@pytest.mark.parametrize("status", [0, 9])
def test_a_tool_without_a_driver_is_no_gpu(nvidia_smi, status: int) -> None:
    nvidia_smi("NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.", status=status)
    assert machine.this_machine(TYPES).name == "CPU"


def test_a_containers_limit_is_the_memory(nvidia_smi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole_memory = machine.host_memory_bytes()
    limit = tmp_path / "memory.max"
    limit.write_text("1000000\n")
    monkeypatch.setattr(machine, "_CGROUP_LIMITS", (str(limit),))
    assert machine.host_memory_bytes() == 1_000_000
    limit.write_text("max\n")
    assert machine.host_memory_bytes() >= whole_memory
    assert machine.this_machine(TYPES).is_gpu is False

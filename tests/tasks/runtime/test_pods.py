"""The folder that the processes of a machine share, and what becomes of the one before a restart."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT

from tasks.runtime.pods import node_directory


def test_a_restart_leaves_no_folder_of_the_processes_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("MASTER_PORT", "2000")
    first = node_directory("trained")
    beside = first.with_name(f"{first.name}-checkpoints")
    beside.mkdir()
    # another process of the same start finds what is there
    assert node_directory("trained") == first and beside.exists()
    other = tmp_path / f"fine-tune-trained-{os.getppid() + 1}-2000-0"
    other.mkdir()
    # a restart for the sake of another machine is not counted, but has another address
    monkeypatch.setenv("MASTER_PORT", "2001")
    second = node_directory("trained")
    assert second.exists() and second != first
    assert not first.exists() and not beside.exists() and other.exists()


def requested(pods: str) -> subprocess.CompletedProcess[str]:
    """Print what each task asks for with FINE_TUNE_PODS set so: its name, cores, memory, GPUs, and its own setting."""
    script = (
        "import workflows.align, workflows.fine_tune, workflows.prepare_data\n"
        "from flytekit.core.context_manager import FlyteEntities\n"
        "from configs.schema.cluster import ClusterConfig\n"
        "from tasks.runtime.pods import node_resources\n"
        "for each in (each for each in FlyteEntities.entities if hasattr(each, 'resources')):\n"
        "    asked = each.resources.requests\n"
        "    print(each.name, asked.cpu, asked.mem, asked.gpu, each.environment['FINE_TUNE_PODS'])\n"
        "asked = node_resources(8, ClusterConfig())\n"
        "print('override', asked.cpu, asked.mem, asked.gpu)\n"
    )
    environment = os.environ | {"FINE_TUNE_PODS": pods}
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_small_pods_ask_for_no_gpu_and_tell_their_own_tasks_so() -> None:
    result = requested("small")
    assert result.returncode == 0, result.stderr
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert lines.pop("override") == "1 3Gi None"
    assert {"tasks.train.task.train_1", "tasks.evaluate.task.evaluate", "tasks.get_data.task.get_data"} <= set(lines)
    assert set(lines.values()) == {"1 3Gi None small"}


def test_full_pods_ask_for_gpus() -> None:
    lines = dict(line.split(" ", 1) for line in requested("full").stdout.splitlines())
    # 8 processes of 8 cores and 96 GiB
    assert lines["override"] == "64 768Gi 8"
    assert lines["tasks.evaluate.task.evaluate"] == "8 64Gi 1 full"


def test_another_size_of_pods_is_refused() -> None:
    result = requested("tiny")
    assert "FINE_TUNE_PODS=tiny is not a size of pods; set it to small or full, or unset it" in " ".join(
        result.stderr.split()
    )

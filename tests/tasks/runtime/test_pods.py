"""The folder that the processes of a machine share, and the resources that pods request."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from conftest import ROOT

from tasks.runtime.pods import node_directory


def test_a_restart_deletes_the_folders_of_the_processes_before_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("MASTER_PORT", "2000")
    first = node_directory("trained")
    beside = first.with_name(f"{first.name}-checkpoints")
    beside.mkdir()
    # another process of the same start gets the same folder
    assert node_directory("trained") == first and beside.exists()
    other = tmp_path / f"fine-tune-trained-{os.getppid() + 1}-2000-0"
    other.mkdir()
    # a restart caused by another machine is not counted, but has another port
    monkeypatch.setenv("MASTER_PORT", "2001")
    second = node_directory("trained")
    assert second.exists() and second != first
    assert not first.exists() and not beside.exists() and other.exists()


def requests_of(pods: str) -> subprocess.CompletedProcess[str]:
    """Print each task's name and requests (cores, memory, GPUs) with FINE_TUNE_PODS=`pods`, and its own setting."""
    script = (
        "import workflows.align, workflows.fine_tune, workflows.prepare_data\n"
        "from flytekit.core.context_manager import FlyteEntities\n"
        "from configs.schema.cluster import ClusterConfig\n"
        "from tasks.runtime.pods import node_resources\n"
        "for task in (entity for entity in FlyteEntities.entities if hasattr(entity, 'resources')):\n"
        "    requests = task.resources.requests\n"
        "    print(task.name, requests.cpu, requests.mem, requests.gpu, task.environment['FINE_TUNE_PODS'])\n"
        "requests = node_resources(8, ClusterConfig())\n"
        "print('override', requests.cpu, requests.mem, requests.gpu)\n"
    )
    environment = os.environ | {"FINE_TUNE_PODS": pods}
    return subprocess.run([sys.executable, "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True)


def test_small_pods_request_no_gpu_and_pass_the_setting_to_their_tasks() -> None:
    result = requests_of("small")
    assert result.returncode == 0, result.stderr
    lines = dict(line.split(" ", 1) for line in result.stdout.splitlines())
    assert lines.pop("override") == "1 3Gi None"
    assert {"tasks.train.task.train_1", "tasks.evaluate.task.evaluate", "tasks.get_data.task.get_data"} <= set(lines)
    assert set(lines.values()) == {"1 3Gi None small"}


def test_full_pods_request_gpus() -> None:
    lines = dict(line.split(" ", 1) for line in requests_of("full").stdout.splitlines())
    # 8 processes of 8 cores and 96 GiB
    assert lines["override"] == "64 768Gi 8"
    assert lines["tasks.evaluate.task.evaluate"] == "8 64Gi 1 full"


def test_another_size_of_pods_is_refused() -> None:
    result = requests_of("tiny")
    assert "FINE_TUNE_PODS=tiny is not a size of pods; set it to small or full, or unset it" in " ".join(
        result.stderr.split()
    )

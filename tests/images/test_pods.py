"""The folder that the processes of a machine share, and what becomes of the one before a restart."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from images.pods import node_directory


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

"""GPUs are counted without torch: those that nvidia-smi prints and CUDA_VISIBLE_DEVICES leaves visible."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from configs.errors import ConfigError
from configs.schema import EvaluateConfig, FineTuneConfig
from tasks.plan.checks.settings import check_local_scoring, check_quantization
from tasks.plan.hardware.local_gpus import local_gpus

NVIDIA_SMI_OUTPUT = """\
Tesla V100-SXM2-16GB, GPU-aaaa1111, 16384, 7.0
NVIDIA A10G, GPU-bbbb2222, 23028, 8.6
NVIDIA A10G, GPU-cccc3333, 23028, 8.6
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An `nvidia-smi` that lists three GPUs."""
    path = tmp_path / "nvidia-smi"
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{NVIDIA_SMI_OUTPUT}END\n")
    path.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return path


def test_gpus_are_listed_with_name_memory_and_compute_capability(nvidia_smi: Path) -> None:
    first, second, _ = local_gpus()
    assert (first.name, first.compute_capability) == ("Tesla V100-SXM2-16GB", (7, 0))
    assert second.memory_bytes == 23028 * 2**20


@pytest.mark.parametrize(
    ("visible", "expected"),
    [
        ("", ""),
        ("-1", ""),
        ("0", "a"),
        ("2,0", "ca"),
        ("1, 2", "bc"),
        ("0,7,1", "a"),
        ("GPU-bbbb", "b"),
        ("GPU-none", ""),
        ("NoDevFiles", ""),
    ],
)
def test_hidden_gpus_do_not_count(
    visible: str, expected: str, nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert "".join(gpu.uuid[4] for gpu in local_gpus()) == expected


def test_without_a_driver_there_are_no_gpus(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed' ; exit 9\n")
    assert local_gpus() == []
    monkeypatch.setenv("PATH", "")
    assert local_gpus() == []


def test_quantization_names_a_gpu_that_is_too_old(nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def config(**settings: object) -> FineTuneConfig:
        return FineTuneConfig(model={"name": "m"}, data={"sources": [{"path": "p"}]}, **settings)

    # 4-bit products need compute capability 6.0, 8-bit ones 7.5
    check_quantization(config(quantize={"methods": ["4bit"]}, train={"method": "qlora"}))
    with pytest.raises(ConfigError, match=r"8bit.*: bitsandbytes needs a GPU of compute capability 7.5 .* V100.* 7.0"):
        check_quantization(config(quantize={"methods": ["8bit"]}))
    with pytest.raises(ConfigError, match=r"^train.method=lora_8bit: bitsandbytes needs"):
        check_quantization(config(quantize={"methods": []}, train={"method": "lora_8bit"}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    check_quantization(config(quantize={"methods": ["8bit"]}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    with pytest.raises(ConfigError, match=r"^evaluate.load_in=4bit: bitsandbytes needs a GPU of compute capability 6"):
        nvidia_smi.write_text(nvidia_smi.read_text().replace("7.0", "5.2"))
        check_quantization(config(quantize={"methods": []}, evaluate={"load_in": "4bit"}))


def test_more_gpus_for_scoring_than_there_are_here_are_refused(
    nvidia_smi: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_local_scoring(EvaluateConfig(gpus=3))
    with pytest.raises(ConfigError, match=r"^evaluate.gpus=4, and this machine has 3\nset it to 3, or use"):
        check_local_scoring(EvaluateConfig(gpus=4))
    # none: the model is loaded on the CPU
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    check_local_scoring(EvaluateConfig(gpus=4))

"""The table of CUDA versions agrees with the pins, the installed packages and the docs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from conftest import ROOT

from images.cuda import CUDA, OLDEST_COMPUTE_CAPABILITY, OLDEST_DRIVER, PINS
from images.lock import locked_versions, read_pins

CUDA_PINS = read_pins(ROOT / "images" / "cuda.txt")
# the DeepSpeed operations that our configs and transformers' optimizers use, as built for CUDA
BUILDERS = """
from deepspeed.accelerator import get_accelerator
from deepspeed.ops.op_builder.builder import CUDAOpBuilder
for name in ("CPUAdamBuilder", "UtilsBuilder", "PinMemoryBuilder", "FusedAdamBuilder"):
    builder = get_accelerator().create_op_builder(name)
    endings = {source.rsplit(".")[-1] for source in builder.sources()}
    print("BUILDER", name, isinstance(builder, CUDAOpBuilder), ",".join(sorted(endings)))
"""


def test_the_images_install_the_versions_of_the_table() -> None:
    gpu = locked_versions("gpu")
    assert {pin.package: gpu[pin.package] for pin in PINS} == {pin.package: pin.version for pin in PINS}


def test_all_cuda_packages_are_of_one_release() -> None:
    for name in ("cuda-toolkit", "nvidia-cuda-runtime", "nvidia-cuda-nvrtc", "nvidia-nvjitlink", "cuda-bindings"):
        assert CUDA_PINS[name].startswith(f"{CUDA}."), name
    # package names end in the major version
    assert {name[-4:] for name in CUDA_PINS if re.search(r"cu\d+$", name)} == {"cu13"}


def test_bitsandbytes_has_kernels_for_this_cuda() -> None:
    files = {Path(str(file)).name for file in metadata.files("bitsandbytes") or []}
    assert f"libbitsandbytes_cuda{CUDA.replace('.', '')}.so" in files


@pytest.mark.parametrize("package", ["bitsandbytes", "deepspeed", "accelerate", "peft", "trl", "transformers"])
def test_packages_built_on_torch_accept_its_version(package: str) -> None:
    from packaging.requirements import Requirement

    for requirement in map(Requirement, metadata.requires(package) or []):
        is_needed = requirement.marker is None or requirement.marker.evaluate({"extra": ""})
        if requirement.name == "torch" and is_needed:
            assert requirement.specifier.contains(CUDA_TORCH), (package, requirement)


CUDA_TORCH = next(pin.version for pin in PINS if pin.package == "torch")


def test_the_deepspeed_operations_that_we_use_need_no_nvcc() -> None:
    environment = {**os.environ, "DS_ACCELERATOR": "cuda"}
    result = subprocess.run([sys.executable, "-c", BUILDERS], env=environment, capture_output=True, text=True)
    found = dict(re.findall(r"BUILDER (\w+) (.*)", result.stdout))
    assert found == {
        "CPUAdamBuilder": "False cpp",
        "UtilsBuilder": "False cpp",
        "PinMemoryBuilder": "False cpp",
        # for comparison, one that needs nvcc
        "FusedAdamBuilder": "True cpp,cu",
    }, result.stderr[-2000:]
    for file in (ROOT / "configs" / "deepspeed").glob("*.json"):
        # an optimizer in the file would be DeepSpeed's fused one, which needs nvcc; nvme needs libaio
        assert not re.search(r'"optimizer"|nvme|"aio"', file.read_text()), file


def test_the_docs_show_the_table() -> None:
    text = (ROOT / "docs" / "images.md").read_text()
    for pin in PINS:
        assert f"| {pin.package} {pin.version} | {pin.needs} | {pin.source} |" in text
    assert f"CUDA {CUDA}" in text and f"driver {OLDEST_DRIVER}" in text
    assert f"compute capability {OLDEST_COMPUTE_CAPABILITY}" in text

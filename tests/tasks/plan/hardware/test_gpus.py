"""The table of GPU types: found by a cluster's labels, extended by a config, never guessed."""

from __future__ import annotations

import pytest
from flytekit.extras import accelerators
from support.plan_inputs import GPU_TYPES

from configs.errors import ConfigError
from configs.schema.plan import GpuTypeConfig
from tasks.plan.hardware.gpus import find_gpu, gpu_types

MINE = GpuTypeConfig(
    name="RTX-4090",
    labels=["rtx-4090"],
    memory_gb=24,
    peak_teraflops=165,
    memory_gb_per_second=1008,
    price_per_hour=0.4,
)


@pytest.mark.parametrize(
    ("accelerator", "name"),
    [
        (accelerators.T4, "T4"),
        (accelerators.V100, "V100-16GB"),
        (accelerators.L4, "L4"),
        (accelerators.A10G, "A10G"),
        (accelerators.A100, "A100-40GB"),
        (accelerators.L40S, "L40S"),
        (accelerators.A100_80GB, "A100-80GB"),
        (accelerators.H100, "H100-SXM"),
        (accelerators.H200, "H200"),
    ],
)
def test_flytes_own_labels_are_known(accelerator: accelerators.BaseAccelerator, name: str) -> None:
    label = accelerator.to_flyte_idl().device
    assert find_gpu(label, GPU_TYPES).name == name


def test_a_name_is_found_in_any_case() -> None:
    assert find_gpu("a100-80gb", GPU_TYPES).memory_bytes == 80e9
    assert find_gpu("NVIDIA-A100-80GB", GPU_TYPES).memory_bytes == 80e9


def test_a_type_that_is_not_in_the_table_is_refused_with_the_settings_that_describe_it() -> None:
    with pytest.raises(ConfigError) as caught:
        find_gpu("nvidia-b300", GPU_TYPES)
    first, second = str(caught.value).splitlines()
    assert first.startswith("train.cluster.gpu=nvidia-b300 is not in the table of GPU types (T4, ")
    assert "plan.gpu_types" in second and "memory_gb" in second


def test_a_config_adds_types_and_replaces_them() -> None:
    dear = GpuTypeConfig(name="H200", memory_gb=141, peak_teraflops=989, memory_gb_per_second=4800, price_per_hour=99)
    types = gpu_types([MINE, dear])
    assert find_gpu("rtx-4090", types).peak_flops == 165e12
    assert types["H200"].price_per_hour == 99
    assert len(types) == len(GPU_TYPES) + 1
    assert "RTX-4090" not in gpu_types()


def test_types_are_sorted_by_memory() -> None:
    sizes = [gpu.memory_bytes for gpu in gpu_types([MINE]).values()]
    assert sizes == sorted(sizes)


def test_no_label_belongs_to_two_types() -> None:
    names = [name.casefold() for gpu in GPU_TYPES.values() for name in (gpu.name, *gpu.labels)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize("gpu", GPU_TYPES.values(), ids=lambda gpu: gpu.name)
def test_each_price_names_its_machine(gpu: object) -> None:
    assert gpu.price_per_hour > 0 and gpu.price_source.startswith("AWS ")  # type: ignore[attr-defined]

"""The GPU types that a plan can be made for, with memory, arithmetic and links as makers and clouds publish them.

Only `compute_utilization` is from no data sheet: it is the share of the peak that arithmetic reaches without waiting
for other GPUs. It is set from published training runs (docs/scaling.md); without such a run it is an assumption.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from configs.errors import ConfigError
from configs.schema.plan import GpuTypeConfig

TABLE = Path(__file__).parents[3] / "configs" / "gpus.yaml"


@dataclass(frozen=True)
class GpuType:
    """One of the `gpus_per_node` GPUs in a typical machine. Bandwidths are in bytes per second, in one direction."""

    name: str
    labels: tuple[str, ...]
    memory_bytes: float
    peak_flops: float
    """Dense bfloat16 FLOP/s with 32-bit accumulation."""
    peak_float32_flops: float | None
    """FLOP/s in float32 without TF32, PyTorch's default; None if not known."""
    memory_bandwidth: float
    gpu_link_bandwidth: float
    """Bandwidth to the other GPUs of the machine, over NVLink or else PCI Express."""
    network_bandwidth: float
    """Bandwidth of the machine's network, per GPU."""
    host_bandwidth: float
    """Bandwidth to host memory, over PCI Express."""
    compute_utilization: float
    gpus_per_node: int
    has_bfloat16: bool
    price_per_hour: float | None
    source: str
    price_source: str


def gpu_type(row: GpuTypeConfig) -> GpuType:
    """Return a row of the table, converted to bytes and FLOP/s."""
    return GpuType(
        name=row.name,
        labels=tuple(row.labels),
        memory_bytes=row.memory_gb * 1e9,
        peak_flops=row.peak_teraflops * 1e12,
        peak_float32_flops=None if row.peak_float32_teraflops is None else row.peak_float32_teraflops * 1e12,
        memory_bandwidth=row.memory_gb_per_second * 1e9,
        gpu_link_bandwidth=row.link_gb_per_second * 1e9,
        network_bandwidth=row.network_gb_per_second * 1e9,
        host_bandwidth=row.host_gb_per_second * 1e9,
        compute_utilization=row.compute_utilization,
        gpus_per_node=row.gpus_per_node,
        has_bfloat16=row.has_bfloat16,
        price_per_hour=row.price_per_hour,
        source=row.source,
        price_source=row.price_source,
    )


@functools.cache
def _table() -> dict[str, GpuType]:
    rows = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    return {row["name"]: gpu_type(GpuTypeConfig.model_validate(row)) for row in rows}


def gpu_types(custom: Sequence[GpuTypeConfig] = ()) -> dict[str, GpuType]:
    """Return the GPU types by name, least memory first; `custom` types of a config replace those of the table."""
    types = {**_table(), **{row.name: gpu_type(row) for row in custom}}
    return dict(sorted(types.items(), key=lambda item: (item[1].memory_bytes, item[1].peak_flops)))


def find_gpu(name: str, types: dict[str, GpuType]) -> GpuType:
    """Return the type whose name or label is `name`, the value of `train.cluster.gpu`, ignoring case.

    Raises:
        ConfigError: no type has this name, so its memory is unknown.
    """
    wanted = name.casefold()
    for gpu in types.values():
        if wanted in (gpu.name.casefold(), *(label.casefold() for label in gpu.labels)):
            return gpu
    raise ConfigError(
        f"train.cluster.gpu={name} is not in the table of GPU types ({', '.join(types)})\n"
        "describe it in plan.gpu_types of the config or in configs/gpus.yaml: name, memory_gb, peak_teraflops, "
        "memory_gb_per_second"
    )

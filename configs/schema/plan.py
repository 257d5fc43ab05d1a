"""The plan section of a config: further GPU types, and what happens if a plan does not fit."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.schema.section import Section


class GpuTypeConfig(Section):
    """A GPU type, and the machine that usually holds it: an entry of configs/gpus.yaml or of a config."""

    name: str = Field(min_length=1, description="Name of the GPU type in plans, such as A100-80GB.")
    labels: list[str] = Field([], description="Labels that clusters give the GPU type, such as nvidia-a100-80gb.")
    memory_gb: float = Field(gt=0.0, description="Memory of the GPU, in 10^9 bytes.")
    peak_teraflops: float = Field(
        gt=0.0,
        description="Peak of dense bfloat16 arithmetic, or of float16 on a GPU without bfloat16, in 10^12 FLOP/s.",
    )
    memory_gb_per_second: float = Field(gt=0.0, description="Bandwidth of the GPU's memory, in 10^9 bytes/s.")
    link_gb_per_second: float = Field(
        32.0,
        gt=0.0,
        description="Bandwidth to the other GPUs of the machine by NVLink or PCI Express, in one direction, in 10^9 "
        "bytes/s.",
    )
    network_gb_per_second: float = Field(
        1.5625, gt=0.0, description="Bandwidth of the machine's network per GPU, in 10^9 bytes/s."
    )
    host_gb_per_second: float = Field(
        32.0, gt=0.0, description="Bandwidth between GPU and host memory, in 10^9 bytes/s."
    )
    gpus_per_node: int = Field(8, ge=1, description="Number of GPUs in the largest usual machine.")
    has_bfloat16: bool = Field(True, description="Whether the GPU computes in bfloat16; if not, float32 is used.")
    peak_float32_teraflops: float | None = Field(
        None,
        gt=0.0,
        description="Peak of float32 arithmetic, in 10^12 FLOP/s; when not set, no time is estimated for float32.",
    )
    compute_utilization: float = Field(
        0.4, gt=0.0, le=1.0, description="Share of the peak that the arithmetic alone is assumed to reach."
    )
    price_per_hour: float | None = Field(
        None, ge=0.0, description="Price of one GPU per hour, in US dollars; when not set, no cost is estimated."
    )
    source: str = Field("the config", description="Where the numbers come from.")
    price_source: str = Field("the config", description="Where the price comes from.")


class PlanConfig(Section):
    """Settings of the plan, which is made before anything runs."""

    if_too_large: Literal["stop", "warn"] = Field(
        "stop", description="What happens if the run does not fit the memory of the GPUs: stop it, or only warn."
    )
    gpu_types: list[GpuTypeConfig] = Field(
        [], description="Further GPU types; one with a name of configs/gpus.yaml replaces that entry."
    )

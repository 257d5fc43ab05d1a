"""The plan section of a config: GPU types that the project's table lacks, and what a plan that does not fit does."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from configs.schema.section import Section


class GpuTypeConfig(Section):
    """One GPU, as one of those in a usual machine: a row of configs/gpus.yaml, or of a config's own."""

    name: str = Field(min_length=1, description="What plans call it, such as A100-80GB.")
    labels: list[str] = Field([], description="Names that clusters give it, such as nvidia-a100-80gb.")
    memory_gb: float = Field(gt=0.0, description="Its memory, in 10^9 bytes.")
    peak_teraflops: float = Field(
        gt=0.0, description="Dense bfloat16 arithmetic (float16 where it has none), in 10^12 FLOP/s."
    )
    memory_gb_per_second: float = Field(gt=0.0, description="Memory bandwidth, in 10^9 bytes/s.")
    link_gb_per_second: float = Field(
        32.0, gt=0.0, description="To the machine's other GPUs, one direction, in 10^9 bytes/s: NVLink or PCI Express."
    )
    network_gb_per_second: float = Field(
        1.5625, gt=0.0, description="The machine's network, for each of its GPUs, in 10^9 bytes/s."
    )
    host_gb_per_second: float = Field(32.0, gt=0.0, description="To the host's memory, in 10^9 bytes/s.")
    gpus_per_node: int = Field(8, ge=1, description="GPUs in the largest usual machine.")
    has_bfloat16: bool = Field(True, description="Whether it computes in bfloat16; float32 is used otherwise.")
    peak_float32_teraflops: float | None = Field(
        None, gt=0.0, description="Arithmetic in float32, in 10^12 FLOP/s; no time is estimated in it when not set."
    )
    compute_utilization: float = Field(
        0.4, gt=0.0, le=1.0, description="Share of the peak that the arithmetic alone reaches; an assumption."
    )
    price_per_hour: float | None = Field(None, ge=0.0, description="Of one GPU, in US dollars; no cost when not set.")
    source: str = Field("the config", description="Where the numbers are from.")
    price_source: str = Field("the config", description="Where the price is from.")


class PlanConfig(Section):
    """What is planned before anything runs."""

    if_too_large: Literal["stop", "warn"] = Field(
        "stop", description="What happens where the plan does not fit the memory of the GPUs."
    )
    gpu_types: list[GpuTypeConfig] = Field(
        [], description="GPU types beside those of configs/gpus.yaml; one of the same name takes its place."
    )

"""The GPU types that an estimate can be made for: what their makers and clouds say of memory, arithmetic and links.

`compute_utilization` is the one number that is no data sheet's: the share of the peak that the arithmetic alone
reaches, without waiting for other GPUs. It is set from published training runs (docs/scaling.md), and where there are
none it is an assumption.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GpuType:
    """One GPU, as one of `gpus_per_node` in a usual machine. Bandwidths are in bytes a second and one direction."""

    name: str
    memory_bytes: float
    peak_flops: float
    """Dense bfloat16 FLOP/s with 32-bit accumulation."""
    memory_bandwidth: float
    gpu_link_bandwidth: float
    """To the other GPUs of the machine: NVLink, or PCI Express where there is none."""
    network_bandwidth: float
    """Of the machine's network, for each of its GPUs."""
    host_bandwidth: float
    """To the host's memory, over PCI Express."""
    compute_utilization: float
    source: str


GPU_TYPES: dict[str, GpuType] = {
    gpu.name: gpu
    for gpu in (
        GpuType(
            name="A100-80GB",
            memory_bytes=80e9,
            peak_flops=312e12,
            memory_bandwidth=2039e9,
            gpu_link_bandwidth=300e9,
            network_bandwidth=25e9,
            host_bandwidth=32e9,
            compute_utilization=0.57,
            source="NVIDIA A100 data sheet (SXM); DGX A100: 8 x 200 Gb/s",
        ),
        GpuType(
            name="H100-SXM",
            memory_bytes=80e9,
            peak_flops=989e12,
            memory_bandwidth=3350e9,
            gpu_link_bandwidth=450e9,
            network_bandwidth=50e9,
            host_bandwidth=64e9,
            compute_utilization=0.40,
            source="NVIDIA H100 data sheet (SXM); DGX H100: 8 x 400 Gb/s",
        ),
        GpuType(
            name="H200",
            memory_bytes=141e9,
            peak_flops=989e12,
            memory_bandwidth=4800e9,
            gpu_link_bandwidth=450e9,
            network_bandwidth=50e9,
            host_bandwidth=64e9,
            compute_utilization=0.40,
            source="NVIDIA H200 data sheet (SXM); DGX H200: 8 x 400 Gb/s",
        ),
        GpuType(
            name="A10G",
            memory_bytes=24e9,
            peak_flops=70e12,
            memory_bandwidth=600e9,
            gpu_link_bandwidth=32e9,
            network_bandwidth=12.5e9 / 8,
            host_bandwidth=32e9,
            compute_utilization=0.40,
            source="NVIDIA A10G data sheet; AWS g5.48xlarge: 8 GPUs, 100 Gb/s",
        ),
        GpuType(
            name="L4",
            memory_bytes=24e9,
            peak_flops=121e12,
            memory_bandwidth=300e9,
            gpu_link_bandwidth=32e9,
            network_bandwidth=12.5e9 / 8,
            host_bandwidth=32e9,
            compute_utilization=0.40,
            source="NVIDIA L4 data sheet; Google Cloud g2-standard-96: 8 GPUs, 100 Gb/s",
        ),
    )
}

"""Shapes of Llamas whose numbers are published, and the table of GPU types: what plans by hand begin with."""

from __future__ import annotations

from tasks.plan.hardware.gpus import gpu_types
from tasks.plan.shapes.shape import ModelShape

GPU_TYPES = gpu_types()


LLAMA_2_7B = ModelShape("Llama-2-7B", 4096, 32, 32, 32, 11008, 32000)
LLAMA_2_13B = ModelShape("Llama-2-13B", 5120, 40, 40, 40, 13824, 32000)
LLAMA_2_70B = ModelShape("Llama-2-70B", 8192, 80, 64, 8, 28672, 32000)
LLAMA_3_8B = ModelShape("Llama-3.1-8B", 4096, 32, 32, 8, 14336, 128256)
LLAMA_3_70B = ModelShape("Llama-3.1-70B", 8192, 80, 64, 8, 28672, 128256)
LLAMA_3_405B = ModelShape("Llama-3.1-405B", 16384, 126, 128, 8, 53248, 128256)

"""The widths of layers that bitsandbytes' 4-bit kernels for CPUs can take. GPUs take all.

bitsandbytes 0.50: `_convert_weight_packed_for_cpu` in functional.py, and `dequantizeBlockwise4bitCpu` in
csrc/cpu_ops.cpp. NF4 weights have one scale for each block of 64 numbers, in the order of the rows.
"""

from __future__ import annotations

BLOCK = 64
_PACKED_ROWS = 32
_VECTOR = 16


def takes_fast_kernel(inputs: int, outputs: int) -> bool:
    """Return whether the kernel for CPUs with AVX512-BF16 takes a layer: it packs 32 rows together, and wants each row
    to begin a block."""
    return outputs % _PACKED_ROWS == 0 and inputs % BLOCK == 0


def is_plain_kernel_right(inputs: int) -> bool:
    """Return whether a CPU with AVX-512 unpacks the rows of a layer to the right numbers.

    It takes 16 numbers at a time where a row divides into such, and then reads the scales as if each row began a block.
    Rows of other widths are unpacked number by number, with the right scales.
    """
    return inputs % BLOCK == 0 or inputs % _VECTOR != 0


def wrong_widths(setting: str, widths: list[int]) -> str:
    """Return the message on 4-bit layers whose rows have these `widths`, which a CPU unpacks wrongly."""
    return (
        f"{setting}: rows of {', '.join(map(str, widths))} numbers are unpacked wrongly from 4 bits on a CPU, by "
        f"bitsandbytes' kernel for AVX-512: the width is a multiple of {_VECTOR} and not of {BLOCK}\n"
        "use a GPU, or 8 bits"
    )

"""Divides a model over GPUs as transformers does with `device_map="auto"`, to find what the fullest of them holds.

transformers 5, integrations/accelerate.py, `get_balanced_memory` and `infer_auto_device_map`: modules go onto the GPUs
in their order. Every GPU but the last takes up to an equal share of the bytes and 1.25 of the largest module that is
not divided; the first one leaves the place of a module free. With layers of bitsandbytes, 90 % of that.
"""

from __future__ import annotations

from dataclasses import dataclass

_SPARE_MODULES = 1.25
_QUANTIZED_SHARE = 0.9


@dataclass(frozen=True)
class LargestPart:
    """What the fullest GPUs hold: the most bytes of weights on one, and the most layers on one, with their caches."""

    weights: float
    layers: int


def largest_part(layer: float, layers: int, ends: tuple[float, ...], gpus: int, is_quantized: bool) -> LargestPart:
    """Return the largest part of a model of `layers` layers of `layer` bytes over `gpus` GPUs.

    `ends` are the bytes of the embedding, and of the output head where it has weights of its own.
    """
    modules = [(ends[0], 0), *[(layer, 1)] * layers, *[(size, 0) for size in ends[1:]]]
    limit = sum(size for size, _ in modules) / gpus + _SPARE_MODULES * max(size for size, _ in modules)
    limit *= _QUANTIZED_SHARE if is_quantized else 1.0
    held, held_layers = [0.0], [0]
    for number, (size, count) in enumerate(modules):
        left_free = max((later for later, _ in modules[number + 1 :]), default=0.0) if len(held) == 1 else 0.0
        if held[-1] + size > limit - left_free and len(held) < gpus:
            held.append(0.0)
            held_layers.append(0)
        held[-1] += size
        held_layers[-1] += count
    return LargestPart(max(held), max(held_layers))

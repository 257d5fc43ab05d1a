"""Choose among bitsandbytes' 4-bit kernels for CPUs, whose fast one cannot take every layer, nor be trained through."""

from __future__ import annotations

import torch

from configs.effective.four_bit import is_plain_kernel_right, takes_fast_kernel, wrong_widths
from configs.errors import ModelError

_LAYER = "Linear4bit"
# bitsandbytes' own switch of a layer
_SWITCH = "support_avx512bf16_for_cpu"


def choose_kernels(model: torch.nn.Module, name: str, trains: bool = False) -> None:
    """Let the 4-bit layers of `model` that the fast kernel cannot take use the plain one; if `trains`, all of them.

    The fast kernel, for CPUs with AVX512-BF16, repacks a weight when it is first used without gradients, as in an
    evaluation. From then on no gradient passes through it, and layers before it would stop learning.

    Raises:
        ModelError: this CPU's plain kernel yields wrong numbers at the width of a layer; the message names `name`.
    """
    for module in model.modules():
        if type(module).__name__ != _LAYER or module.weight.device.type != "cpu":  # type: ignore[union-attr]
            continue
        inputs, outputs = int(module.in_features), int(module.out_features)  # type: ignore[arg-type]
        if torch.backends.cpu.get_cpu_capability() == "AVX512" and not is_plain_kernel_right(inputs):
            raise ModelError(wrong_widths(name, [inputs]))
        if trains or not takes_fast_kernel(inputs, outputs):
            setattr(module, _SWITCH, False)

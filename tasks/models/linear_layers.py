"""Find the matrices of a model: which of them are linear layers, experts and routers, and which are quantized.

The plan asks on a model without data which weights bitsandbytes can quantize; the quantize and the evaluate task count
in a loaded model which it did.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D
from transformers.quantizers.base import HfQuantizer
from transformers.quantizers.quantizers_utils import should_convert_module

from configs.linear_weights import LinearWeights

REWARD_HEAD = "score"
_QUANTIZED_LAYERS = ("Linear8bitLt", "Linear4bit")
_NO_LINEAR_LAYERS = (torch.nn.Embedding, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)


def plannable_weights(model: PreTrainedModel) -> LinearWeights:
    """Return which linear weights of `model` bitsandbytes can quantize; the model may be without data."""
    return _count(model, replacement_rule(model))


def quantized_weights(model: Any) -> LinearWeights:
    """Return which linear weights of a loaded model are quantized, by bitsandbytes or gptqmodel."""
    return _count(model, lambda _, module: _is_quantized(module))


def quantized_share(model: Any) -> float | None:
    """Return the share of the linear weights of a loaded model that is quantized; None if nothing is."""
    weights = quantized_weights(model)
    return weights.share if weights.quantized else None


def replacement_rule(model: PreTrainedModel) -> Callable[[str, torch.nn.Module], bool]:
    """Return the rule by which transformers replaces a layer of `model`, given its path, by one of bitsandbytes."""
    kept = HfQuantizer.get_modules_to_not_convert(model, None, model._keep_in_fp32_modules)
    # replace_with_bnb_linear asks for exactly nn.Linear, not for its subclasses
    return lambda path, module: (
        (isinstance(module, Conv1D) or type(module) is torch.nn.Linear) and should_convert_module(path, kept)
    )


def heads(model: Any) -> list[torch.nn.Module]:
    """Return the output head of a language model, and the head of a reward model."""
    found = (model.get_output_embeddings(), getattr(model, REWARD_HEAD, None))
    return [head for head in found if isinstance(head, torch.nn.Module)]


def widths(linear: Any) -> tuple[int, int]:
    """Return the inputs and outputs of a linear layer or of a `Conv1D`, whose attributes have other names.

    They are the layer's own numbers: a quantized or sharded weight has other sizes.
    """
    if isinstance(linear, Conv1D):
        return linear.nx, linear.nf
    return linear.in_features, linear.out_features


def whole_shape(parameter: torch.Tensor) -> torch.Size:
    """Return the shape of a parameter before sharding: ZeRO 3 leaves an empty tensor in its place."""
    shape: torch.Size = getattr(parameter, "ds_shape", parameter.shape)
    return shape


def fused_experts(module: torch.nn.Module) -> Iterator[tuple[str, int, int, int, bool]]:
    """Yield name, inputs, outputs, number of experts and whether they have a bias, for experts stored as one parameter:
    [experts, outputs, inputs], or [experts, inputs, outputs] if the class says it is transposed."""
    if "Experts" not in type(module).__name__:
        return
    parameters = dict(module.named_parameters(recurse=False))
    for key, parameter in parameters.items():
        if parameter.dim() == 3:
            num, outputs, inputs = parameter.shape
            if getattr(module, "is_transposed", False):
                inputs, outputs = outputs, inputs
            yield key, inputs, outputs, num, f"{key}_bias" in parameters


def _count(model: Any, is_quantized: Callable[[str, torch.nn.Module], bool]) -> LinearWeights:
    quantized, others, kept = 0, Counter[str](), heads(model)
    for path, module in model.named_modules():
        if any(module is head for head in kept) or isinstance(module, _NO_LINEAR_LAYERS):
            continue
        weights = _matrix_weights(module)
        if is_quantized(path, module):
            quantized += weights
        elif weights:
            others[type(module).__name__] += weights
    return LinearWeights(quantized, tuple(others.most_common()))


def _matrix_weights(module: Any) -> int:
    """Return the numbers in the matrices of a module, without those of modules in it."""
    if isinstance(module, (torch.nn.Linear, Conv1D)) or _is_quantized(module):
        inputs, outputs = widths(module)
        return int(inputs * outputs)
    own = module.named_parameters(recurse=False)
    # the biases of all experts are a matrix too
    shapes = [whole_shape(weight) for name, weight in own if not name.endswith("bias")]
    return sum(shape.numel() for shape in shapes if len(shape) > 1)


def _is_quantized(module: torch.nn.Module) -> bool:
    # gptqmodel's layers, of many classes, have packed weights in a buffer of this name
    return type(module).__name__ in _QUANTIZED_LAYERS or hasattr(module, "qweight")

"""Choose the layers that get a LoRA adapter. Training and the plan ask here, so that both count the same parameters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from peft.utils.transformers_weight_conversion import _MODEL_TO_CONVERSION_PATTERN, _MOE_TARGET_MODULE_MAPPING
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from configs.linear_weights import listed
from tasks.models.linear_layers import heads, whole_shape, widths

ALL_LINEAR = "all-linear"
_EXPERTS = "Experts"
# a shared expert has a gate of its own, with one output
_GATE_WIDTH = 1
_EXPERT_COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")


def linear_layers(model: PreTrainedModel) -> Iterator[tuple[str, int]]:
    """Yield path and smaller dimension of each linear layer except the heads; GPT-2's `Conv1D` is linear too."""
    kept = heads(model)
    for path, module in model.named_modules():
        if isinstance(module, (torch.nn.Linear, Conv1D)) and not any(module is head for head in kept):
            yield path, min(widths(module))


def merged_targets(model: PreTrainedModel) -> dict[str, tuple[str, ...]]:
    """Return, for parameters into which transformers 5 merged former linear layers (experts and routers), the names in
    `target_modules` under which peft finds them."""
    merged_names = _MOE_TARGET_MODULE_MAPPING.get(_MODEL_TO_CONVERSION_PATTERN.get(model.config.model_type, ""), {})
    return {new: tuple(old for old, other in merged_names.items() if other == new) for new in merged_names.values()}


def router_paths(model: PreTrainedModel) -> list[str]:
    """Return the paths of the layers that choose among the experts of a mixture, or weigh a shared expert.

    Such a layer stands beside experts, and has one output for each of them, or a single one. It is a linear layer, or a
    module with a matrix of its own.
    """
    modules = dict(model.named_modules())
    holders = [path for path, module in modules.items() if _holds_experts(path, module)]
    blocks = {path.rpartition(".")[0] for path in holders}
    outputs = _expert_counts(model, [modules[path] for path in holders]) | {_GATE_WIDTH}
    return [
        path
        for path, module in modules.items()
        if any(path.startswith(f"{block}.") for block in blocks)
        and not any(path == holder or path.startswith(f"{holder}.") for holder in holders)
        and _outputs(module) in outputs
    ]


def target_modules(model: PreTrainedModel, names: Sequence[str]) -> str | list[str]:
    """Return peft's `target_modules` for `train.lora.target_modules`.

    `all-linear` is all linear layers except heads and routers; in families whose experts transformers merged into
    parameters, the experts too. Routers are trained only by name: an update that shifts them sends tokens to experts
    that never saw such tokens.
    """
    if ALL_LINEAR not in names:
        return list(names)
    routers = router_paths(model)
    named = [name for name in names if name != ALL_LINEAR]
    if not routers and not named:
        return ALL_LINEAR
    merged = {old for new, olds in merged_targets(model).items() if not _is_router_weight(new, routers) for old in olds}
    layers = [path for path, _ in linear_layers(model) if path not in routers]
    return [*layers, *sorted(merged), *named]


def left_alone(model: PreTrainedModel, names: Sequence[str]) -> str:
    """Return a line that names the routers that `all-linear` leaves without an adapter; empty if there are none."""
    routers = {path.rpartition(".")[2]: path for path in router_paths(model)} if ALL_LINEAR in names else {}
    found = sorted(routers.keys() - set(names))
    reachable = {path.rpartition(".")[2] for path, _ in linear_layers(model)}
    reachable |= {old for olds in merged_targets(model).values() for old in olds}
    by_name = [name for name in found if name in reachable]
    hint = f"; train.lora.target_modules: [{ALL_LINEAR}, {', '.join(by_name)}] would train them" if by_name else ""
    return f"adapter: none on routers of experts, {listed(found)}{hint}" if found else ""


def _holds_experts(path: str, module: torch.nn.Module) -> bool:
    is_list = isinstance(module, torch.nn.ModuleList) and path.rpartition(".")[2] == _EXPERTS.lower()
    return is_list or _EXPERTS in type(module).__name__


def _expert_counts(model: PreTrainedModel, holders: Sequence[torch.nn.Module]) -> set[int]:
    config = model.config.get_text_config()
    counts = {getattr(config, key, None) for key in _EXPERT_COUNTS}
    counts |= {len(holder) for holder in holders if isinstance(holder, torch.nn.ModuleList)}
    shapes = [whole_shape(weight) for holder in holders for weight in holder.parameters(recurse=False)]
    counts |= {shape[0] for shape in shapes if len(shape) == 3}
    return {count for count in counts if isinstance(count, int)}


def _outputs(module: Any) -> int | None:
    """Return the outputs of a linear layer, or of a module with a matrix `weight`; None for other modules."""
    if isinstance(module, (torch.nn.Linear, Conv1D)):
        return widths(module)[1]
    weight = getattr(module, "weight", None)
    shape = whole_shape(weight) if isinstance(weight, torch.nn.Parameter) else ()
    return int(shape[0]) if len(shape) == 2 else None


def _is_router_weight(parameter: str, routers: Sequence[str]) -> bool:
    return any(f"{path.rpartition('.')[2]}.weight" == parameter for path in routers)

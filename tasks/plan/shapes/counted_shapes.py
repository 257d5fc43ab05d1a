"""Counts the shape of any model that transformers knows, in transformers' own model without weights.

Tensors on PyTorch's meta device have sizes and no data, so a model of any size is built in a second.
"""

from __future__ import annotations

import inspect
import re
import time
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_MASKED_LM_MAPPING
from transformers.pytorch_utils import Conv1D

from configs.errors import ModelError
from configs.printable import one_line
from tasks.models.library_errors import LIBRARY_ERRORS, reason_of
from tasks.models.linear_layers import fused_experts, plannable_weights, replacement_rule, widths
from tasks.models.lora_targets import merged_targets, router_paths
from tasks.plan.shapes.counted_activations import (
    LIMIT_SECONDS,
    CountingTooLongError,
    LayerActivations,
    count_16_bit_activations,
    count_activations,
    quiet,
)
from tasks.plan.shapes.shape import Linear, ModelShape

# more than any model has; transformers would take minutes to refuse a larger one
_LARGEST = {"hidden_size": 2**20, "num_hidden_layers": 2**11, "num_attention_heads": 2**14, "vocab_size": 2**26}
_EXPERTS_PER_TOKEN_KEYS = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "moe_topk",
    "moe_k",
    "top_k_experts",
    "top_k",
)
_FIX = "name a model that writes text from left to right, such as one of llama or qwen3"
_IGNORED_SETTINGS = ("auto_map", "quantization_config", "dtype", "torch_dtype", "transformers_version")


def count_shape(settings: dict[str, Any], name: str, has_activations: bool = True) -> ModelShape:
    """Return the shape of the causal language model that transformers builds from `settings`, a config.json's content.

    Without `has_activations` activations are not counted, which takes one second instead of ten.

    Raises:
        ModelError: transformers does not know the architecture or it does not write from left to right; transformers
            refuses the settings, or they are beyond any model's size.
    """
    with quiet():
        config, notes = _causal_config(_config(settings, name), name)
        _check_sizes(config.get_text_config(), name)
        try:
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(config)
        except LIBRARY_ERRORS as error:
            raise _refused(config.model_type, name, error) from None
    return _shape(model, name, notes, has_activations)


def causal_config(settings: dict[str, Any], name: str) -> PreTrainedConfig:
    """Return the config of the causal language model that transformers loads by `settings`, a config.json's content.

    Raises:
        ModelError: as `count_shape`.
    """
    with quiet():
        config, _ = _causal_config(_config(settings, name), name)
        _check_sizes(config.get_text_config(), name)
    return config


def _config(settings: dict[str, Any], name: str) -> PreTrainedConfig:
    family = settings["model_type"]
    shape_settings = {key: value for key, value in settings.items() if key not in _IGNORED_SETTINGS}
    try:
        return CONFIG_MAPPING[family].from_dict(shape_settings)
    except LIBRARY_ERRORS as error:
        raise _refused(family, name, error) from None


def _refused(family: str, name: str, error: Exception) -> ModelError:
    return ModelError(
        f"model.name={name}: config.json is refused by transformers' {one_line(family)}: {reason_of(error)}\n"
        "correct config.json, or name another model"
    )


def _causal_config(config: PreTrainedConfig, name: str) -> tuple[PreTrainedConfig, tuple[str, ...]]:
    """Return the config that AutoModelForCausalLM loads, and notes. For some models of text and images it is a part of
    their config."""
    kind = type(config)
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"model.name={name}: config.json is of architecture '{one_line(config.model_type)}', which transformers "
            "does not "
            f"load as a causal language model\n{_FIX}"
        )
    loaded = MODEL_FOR_CAUSAL_LM_MAPPING[kind]
    reason = _why_not_causal(config, loaded)
    if reason:
        raise ModelError(
            f"model.name={name}: config.json is of architecture '{one_line(config.model_type)}', which {reason}\n{_FIX}"
        )
    if loaded.config_class is not kind and loaded.config_class is config.sub_configs.get("text_config"):
        return config.get_text_config(), ("only its text model is planned and trained",)
    if config.get_text_config() is not config:
        return config, ("parts for images or sound are counted in the weights; rows are taken to be text",)
    return config, ()


def _why_not_causal(config: PreTrainedConfig, loaded: type[PreTrainedModel]) -> str:
    """Return why the class that AutoModelForCausalLM loads cannot be trained or generate; empty if it can."""
    inputs = inspect.signature(loaded.forward).parameters
    if config.is_encoder_decoder:
        # its decoder alone is loaded, whose attention to the encoder was trained with one
        return "is an encoder-decoder model"
    is_masked = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    # XLNet attends in both directions unless it is given the order of each token
    if is_masked or "perm_mask" in inputs:
        return "reads text in both directions"
    if not loaded.can_generate():
        return "generates no text in transformers"
    return "" if "labels" in inputs else "takes no labels in transformers, so it cannot be trained"


def _check_sizes(config: PreTrainedConfig, name: str) -> None:
    for key, most in _LARGEST.items():
        value = getattr(config, key, None)
        if isinstance(value, int) and not 0 < value <= most:
            raise ModelError(
                f"model.name={name}: config.json: {key}={value} is not between 1 and {most}; correct it, or name "
                "another model"
            )


def _shape(model: PreTrainedModel, name: str, notes: tuple[str, ...], has_activations: bool) -> ModelShape:
    config, head, embedding = (
        model.config.get_text_config(),
        model.get_output_embeddings(),
        model.get_input_embeddings(),
    )
    if head is None:
        raise ModelError(
            f"model.name={name}: transformers' {one_line(config.model_type)} names no output head; name another model"
        )
    linears, experts = _linears(model)
    vocabulary, width = embedding.weight.shape
    is_tied = head.weight is embedding.weight
    embedding_parameters = vocabulary * width * (1 if is_tied else 2)
    layer_sizes = _layer_sizes(model)
    experts_per_token = next(
        (n for key in _EXPERTS_PER_TOKEN_KEYS if isinstance(n := getattr(config, key, None), int)), None
    )
    if experts:
        notes += (
            ("experts are taken to be evenly loaded",)
            if experts_per_token is not None
            else ("the settings do not say how many experts a token passes through: all are counted",)
        )
    activations, activation_notes = _activations(model.config, layer_sizes) if has_activations else (None, ())
    heads = _positive_integer(config, "num_attention_heads", 1)
    key_value_heads = _positive_integer(config, "num_key_value_heads", heads)
    key_width = next((linear.outputs for linear in linears if linear.name == "k_proj"), 0)
    widest = max(max(linear.inputs, linear.outputs) for linear in linears)
    return ModelShape(
        name,
        hidden=_positive_integer(config, "hidden_size", width),
        layers=len(layer_sizes),
        heads=heads,
        key_value_heads=key_value_heads,
        intermediate=_positive_integer(config, "intermediate_size", widest),
        vocabulary=vocabulary,
        is_tied=is_tied,
        family=config.model_type,
        head_width=_positive_integer(config, "head_dim", 0) or key_width // key_value_heads or None,
        positions=_positive_integer(config, "max_position_embeddings", 0) or None,
        experts=experts,
        experts_per_token=min(experts, experts_per_token if experts_per_token is not None else experts),
        linears=linears,
        other_parameters=model.num_parameters() - sum(linear.parameters for linear in linears) - embedding_parameters,
        embedding_width=width,
        largest_layer=max(layer_sizes),
        saved_bytes=activations.saved if activations else None,
        temporary_bytes=activations.temporary if activations else None,
        score_bytes=activations.scores if activations else None,
        notes=notes + activation_notes,
        unquantized=plannable_weights(model).others,
    )


def _positive_integer(config: PreTrainedConfig, key: str, default: int) -> int:
    value = getattr(config, key, None)
    return value if isinstance(value, int) and value > 0 else default


def _linears(model: PreTrainedModel) -> tuple[tuple[Linear, ...], int]:
    """Return the linear maps, equal ones grouped with their count, and the number of experts in a layer."""
    can_quantize, routers = replacement_rule(model), set(router_paths(model))
    merged = merged_targets(model)
    renamed = {old for names in merged.values() for old in names}
    # keys have count 1, so that equal maps fall together
    counts: Counter[Linear] = Counter()
    experts, head = 0, model.get_output_embeddings()
    for path, module in model.named_modules():
        name, is_router = path.rpartition(".")[2], path in routers
        if module is head:
            continue
        if isinstance(module, (torch.nn.Linear, Conv1D)):
            inputs, outputs = widths(module)
            expert = re.search(r"\bexperts\.(\d+)\.", path)
            is_quantized, has_bias = can_quantize(path, module), module.bias is not None
            # peft looks up the names of merged experts among the merged parameters only
            targets: tuple[str, ...] | None = () if name in renamed else None
            is_expert = expert is not None
            linear = Linear(name, inputs, outputs, 1, is_expert, has_bias, True, is_quantized, targets, is_router)
            counts[linear] += 1
            experts = max(experts, int(expert[1]) + 1 if expert else 0)
        elif f"{name}.weight" in merged and isinstance(weight := getattr(module, "weight", None), torch.Tensor):
            outputs, inputs = map(int, weight.shape)
            targets = merged[f"{name}.weight"]
            counts[Linear(name, inputs, outputs, 1, False, False, False, False, targets, is_router)] += 1
        else:
            for key, inputs, outputs, num, has_bias in fused_experts(module):
                counts[Linear(key, inputs, outputs, 1, True, has_bias, False, False, merged.get(key, ()))] += num
                experts = max(experts, num)
    return tuple(replace(linear, count=count) for linear, count in counts.items()), experts


def _layer_sizes(model: PreTrainedModel) -> list[int]:
    """Return the parameters of each layer of the text model."""
    layers = model.config.get_text_config().num_hidden_layers
    stacks = [module for module in model.modules() if isinstance(module, torch.nn.ModuleList) and len(module) == layers]
    # other stacks may be as long, such as the key norms of all layers; the layers are the largest one
    sizes = [[sum(p.numel() for p in layer.parameters()) for layer in stack] for stack in stacks]
    return max(sizes, key=sum, default=[model.num_parameters() // layers] * layers)


def _activations(
    config: PreTrainedConfig, layer_sizes: list[int], limit_seconds: float = LIMIT_SECONDS
) -> tuple[LayerActivations | None, tuple[str, ...]]:
    """Return the activations of a layer, None if they cannot be counted without data, and notes on what was assumed."""
    text = config.get_text_config()
    types = getattr(text, "layer_types", None) or [""] * len(layer_sizes)
    layer_kinds = list(zip(layer_sizes, types, strict=False))
    # a layer's bytes are the difference of two models, one ending with it and one before it; not of layer 0, since
    # a model has at least one layer
    first_index = {kind: index for index, kind in reversed(list(enumerate(layer_kinds))) if index}
    kinds = {index: layer_kinds.count(kind) for kind, index in first_index.items()}
    notes = ("layers differ: their activations are averaged",) if len(kinds) > 1 else ()
    assumed = "activations are taken to be those of a Llama of the same widths"
    if not kinds or text is not config:
        return None, (assumed,)
    deadline = time.monotonic() + limit_seconds
    try:
        with suppress(*LIBRARY_ERRORS):
            return count_activations(config, kinds, deadline), notes
        with suppress(*LIBRARY_ERRORS):
            in_16_bits = "activations are counted for 16-bit weights, and twice as many taken for others"
            return count_16_bit_activations(config, kinds, deadline), (*notes, in_16_bits)
    except CountingTooLongError:
        assumed = f"counting was given up after {limit_seconds:g} s: {assumed}"
    return None, (assumed,)

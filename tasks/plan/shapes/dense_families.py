"""Computes the shapes of families whose layers are like a Llama's, without PyTorch and transformers.

So `make plan` answers in seconds for the models that are trained most. Tests compare every number with transformers'
own model of the same config.json.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from configs.addresses import shown_address
from configs.errors import ModelError
from tasks.plan.shapes.shape import Linear, ModelShape

# more than any model has
_LARGEST = {
    "hidden_size": 2**20,
    "num_hidden_layers": 2**11,
    "num_attention_heads": 2**14,
    "num_key_value_heads": 2**14,
    "intermediate_size": 2**24,
    "vocab_size": 2**26,
    "head_dim": 2**14,
    "max_position_embeddings": 2**31,
}
_GATED = ("silu", "gelu", "gelu_pytorch_tanh")
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Family:
    """A family's differences from Llama, and transformers' `defaults` for keys that a config.json leaves out.

    `nullable` keys may be null, meaning as many key-value heads as heads, or a head width of hidden / heads.
    `biases` names linear maps that always have a bias; `bias_keys` are settings that give one to the maps of attention
    or of the MLP.
    """

    defaults: dict[str, Any]
    nullable: tuple[str, ...] = ("num_key_value_heads",)
    biases: tuple[str, ...] = ()
    bias_keys: tuple[str, ...] = ()
    has_head_norms: bool = False
    is_fused: bool = False


def _defaults(numbers: tuple[int, int, int, int, int, int | None, int | None, int], **others: Any) -> dict[str, Any]:
    keys = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "num_key_value_heads",
        "head_dim",
        "max_position_embeddings",
    )
    return {**dict(zip(keys, numbers, strict=True)), "hidden_act": "silu", "tie_word_embeddings": False, **others}


_ATTENTION, _MLP = "attention_bias", "mlp_bias"
FAMILIES = {
    "llama": Family(
        _defaults((32000, 4096, 11008, 32, 32, None, None, 2048)),
        ("num_key_value_heads", "head_dim"),
        bias_keys=(_ATTENTION, _MLP),
    ),
    "mistral": Family(_defaults((32000, 4096, 14336, 32, 32, 8, None, 131072)), ("head_dim",)),
    "qwen2": Family(_defaults((151936, 4096, 22016, 32, 32, 32, None, 32768)), biases=("q_proj", "k_proj", "v_proj")),
    "qwen3": Family(
        _defaults((151936, 4096, 22016, 32, 32, 32, 128, 32768)), bias_keys=(_ATTENTION,), has_head_norms=True
    ),
    "smollm3": Family(
        _defaults((128256, 2048, 11008, 36, 16, 4, None, 32768), tie_word_embeddings=True),
        bias_keys=(_ATTENTION, _MLP),
    ),
    "phi3": Family(_defaults((32064, 3072, 8192, 32, 32, None, None, 4096)), is_fused=True),
    "gemma": Family(
        _defaults(
            (256000, 3072, 24576, 28, 16, 16, 256, 8192), hidden_act="gelu_pytorch_tanh", tie_word_embeddings=True
        ),
        (),
        bias_keys=(_ATTENTION,),
    ),
}


def is_dense(settings: dict[str, Any]) -> bool:
    """Return whether `dense_shape` applies: a known family, and an activation function that saves what SiLU saves."""
    family = FAMILIES.get(settings.get("model_type", ""))
    return family is not None and settings.get("hidden_act", family.defaults["hidden_act"]) in _GATED


def dense_shape(settings: dict[str, Any], name: str) -> ModelShape:
    """Return the shape of a model of one of `FAMILIES`, from the content of its config.json.

    Raises:
        ModelError: a setting is not a number, not positive, or beyond any model's size; the numbers of heads do not
            divide.
    """
    kind = settings["model_type"]
    family = FAMILIES[kind]
    values = {key: _checked_value(settings, key, default, family, name) for key, default in family.defaults.items()}
    has_bias_by_key = {key: _checked_switch(settings, key, name) for key in family.bias_keys}
    hidden, heads = values["hidden_size"], values["num_attention_heads"]
    if hidden % heads and (values["head_dim"] is None or kind == "llama"):
        raise _refused(name, f"hidden_size={hidden} is not a multiple of num_attention_heads={heads}")
    key_value_heads = values["num_key_value_heads"] or heads
    if heads % key_value_heads:
        raise _refused(name, f"num_attention_heads={heads} is not a multiple of num_key_value_heads={key_value_heads}")
    width = values["head_dim"] or hidden // heads
    layers = values["num_hidden_layers"]
    sizes = _linear_sizes(family, hidden, heads * width, key_value_heads * width, values["intermediate_size"])
    linears = tuple(
        Linear(linear_name, inputs, outputs, layers, has_bias=_has_bias(linear_name, family, has_bias_by_key))
        for linear_name, (inputs, outputs) in sizes.items()
    )
    biases = sum(linear.outputs for linear in linears if linear.has_bias)
    norms_and_biases = biases + 2 * hidden + (2 * width if family.has_head_norms else 0)
    shape = ModelShape(
        name,
        hidden,
        layers,
        heads,
        key_value_heads,
        values["intermediate_size"],
        values["vocab_size"],
        is_tied=values["tie_word_embeddings"],
        family=kind,
        head_width=width,
        positions=values["max_position_embeddings"],
        linears=linears,
        other_parameters=layers * norms_and_biases + hidden,
        largest_layer=sum(linear.inputs * linear.outputs for linear in linears) + norms_and_biases,
    )
    return _with_activations(shape, family)


def _refused(name: str, reason: str) -> ModelError:
    return ModelError(f"model.name={name}: config.json: {reason}\ncorrect config.json, or name another model")


def _checked_value(settings: dict[str, Any], key: str, default: Any, family: Family, name: str) -> Any:
    if key not in settings or key == "hidden_act":
        return default
    value = settings[key]
    if key == "tie_word_embeddings":
        return _checked_switch(settings, key, name)
    if value is None and key in family.nullable:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        shown = shown_address(value)[:40]
        raise _refused(name, f"{key}={shown} is not a whole number")
    if not 0 < value <= _LARGEST[key]:
        raise _refused(name, f"{key}={value} is not between 1 and {_LARGEST[key]}")
    return value


def _checked_switch(settings: dict[str, Any], key: str, name: str) -> bool:
    value = settings.get(key, False)
    if not isinstance(value, bool):
        raise _refused(name, f"{key}={shown_address(value)[:40]} is neither true nor false")
    return value


def _linear_sizes(
    family: Family, hidden: int, query: int, key_value: int, intermediate: int
) -> dict[str, tuple[int, int]]:
    """Return (inputs, outputs) by the name of the linear map."""
    output = {"o_proj": (query, hidden)}
    if family.is_fused:
        fused = {"qkv_proj": (hidden, query + 2 * key_value), "gate_up_proj": (hidden, 2 * intermediate)}
        return output | fused | {"down_proj": (intermediate, hidden)}
    projections = {"q_proj": (hidden, query), "k_proj": (hidden, key_value), "v_proj": (hidden, key_value)}
    mlp = {
        "gate_proj": (hidden, intermediate),
        "up_proj": (hidden, intermediate),
        "down_proj": (intermediate, hidden),
    }
    return projections | output | mlp


def _has_bias(linear: str, family: Family, has_bias_by_key: dict[str, bool]) -> bool:
    is_mlp = linear in ("gate_proj", "up_proj", "down_proj")
    return linear in family.biases or has_bias_by_key.get(_MLP if is_mlp else _ATTENTION, False)


def _with_activations(shape: ModelShape, family: Family) -> ModelShape:
    """Return `shape` with the activations of a layer where they differ from a Llama's.

    The numbers are those that `tasks.plan.shapes.counted_activations` counts, as long as the MLP's gradients are larger
    than those of attention.
    """
    if shape.family not in ("qwen3", "phi3", "gemma"):
        return shape
    h, i = shape.hidden, shape.intermediate
    notes: tuple[str, ...] = ()
    if 2 * i < 3 * max(h, shape.query_width):
        notes = ("temporary activations are taken to be those of the MLP, which is narrow here",)
    return replace(
        shape,
        saved_bytes=(
            _saved(shape, family, 2, (20 if shape.family == "gemma" else 16) * h, False),
            _saved(shape, family, 2, (20 if family.is_fused else 26) * h, True),
            _saved(shape, family, 4, 24 * h, False),
        ),
        temporary_bytes=(6 * i + 2 * h, 6 * i + 8 * h, 12 * i + 8 * h),
        score_bytes=(2, 2, 4),
        notes=notes,
    )


def _saved(shape: ModelShape, family: Family, size: int, norms: int, is_autocast: bool) -> int:
    """Return the bytes that a layer saves per token in numbers of `size` bytes, of which `norms` are around its norms.

    Saved are queries, keys, values, attention's output, and four tensors of the MLP's width, and in 32 bits the log-sum
    of each head and one number for each norm. Keys and values are repeated for each head, but a single one is not
    copied.
    """
    q, kv = shape.query_width, shape.key_value_width
    is_repeated = shape.heads > shape.key_value_heads
    is_copied = is_repeated and shape.key_value_heads > 1
    keys = q if is_copied or (is_repeated and is_autocast) else kv
    values = q if is_copied else kv
    if family.is_fused:
        # rotated queries are concatenated once more; values are a view of the fused map's output, which stays whole
        values = q + (q if is_copied else q + 2 * kv)
    head_norms = 0
    if family.has_head_norms:
        head_norms = (2 * size if size == 4 else 6) * (q + kv) + 4 * (shape.heads + shape.key_value_heads)
    return norms + size * (2 * q + keys + values + 4 * shape.intermediate) + 4 * shape.heads + 8 + head_norms

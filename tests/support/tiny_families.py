"""Configs of tiny models of every kind of linear layer: plain, Conv1D, FalconLinear, and experts in one parameter."""

from __future__ import annotations

from typing import Any

from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedModel

_SMALL = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 101,
    "max_position_embeddings": 64,
    "pad_token_id": None,
    "num_experts_per_tok": 2,
}
_GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 101, "n_positions": 64}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": _SMALL,
    "gpt2": _GPT2,
    "phi": _SMALL,
    "falcon": {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 101},
    "mixtral": {**_SMALL, "num_local_experts": 4},
    "qwen3_moe": {**_SMALL, "num_experts": 4, "moe_intermediate_size": 32, "head_dim": 16},
    "qwen2_moe": {
        **_SMALL,
        "num_experts": 4,
        "moe_intermediate_size": 32,
        "shared_expert_intermediate_size": 64,
    },
    "gpt_oss": {**_SMALL, "num_local_experts": 4, "head_dim": 16},
    "hunyuan_v1_moe": {**_SMALL, "num_experts": 4, "head_dim": 16},
    "jetmoe": {**_SMALL, "num_local_experts": 4, "kv_channels": 16, "num_key_value_heads": 4},
}


def settings_of(family: str, **changes: Any) -> dict[str, Any]:
    """Return the content of the config.json of a tiny model."""
    return {"model_type": family, **FAMILIES[family], **changes}


def tiny_model_of(family: str, **changes: Any) -> PreTrainedModel:
    """Return a tiny model with random weights."""
    config = CONFIG_MAPPING[family].from_dict(settings_of(family, **changes))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    return model

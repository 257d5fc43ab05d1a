"""Counts in transformers' own models: experts, and the linear layers that peft and bitsandbytes see."""

from __future__ import annotations

from typing import Any

import pytest

from configs.errors import ConfigError
from tasks.plan.shapes.shape import ModelShape

SMALL = {
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "vocab_size": 101,
    "pad_token_id": None,
}


def counted(settings: dict[str, Any], has_activations: bool = False) -> ModelShape:
    from tasks.plan.shapes.counted_shapes import count_shape

    return count_shape(settings, "m", has_activations)


# the published figures include the embedding; only gpt-oss's table leaves out 201,088 x 2,880 of it
QWEN3_30B = {
    "model_type": "qwen3_moe",
    "hidden_size": 2048,
    "moe_intermediate_size": 768,
    "num_hidden_layers": 48,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 128,
    "num_experts_per_tok": 8,
}
GPT_OSS_20B = {"model_type": "gpt_oss", "num_hidden_layers": 24, "num_local_experts": 32, "num_experts_per_tok": 4}
DEEPSEEK_V3 = {"model_type": "deepseek_v3"}
OLMOE = {"model_type": "olmoe", "vocab_size": 50304, "intermediate_size": 1024}


@pytest.mark.parametrize(
    ("settings", "total", "active", "experts"),
    [
        ({"model_type": "mixtral"}, 46.7, 12.9, (8, 2)),
        (QWEN3_30B, 30.5, 3.35, (128, 8)),
        (GPT_OSS_20B, 20.91, 3.61 + 0.58, (32, 4)),
        (DEEPSEEK_V3, 671, 37.5, (256, 8)),
        (OLMOE, 6.92, 1.28, (64, 8)),
    ],
    ids=lambda value: value["model_type"] if isinstance(value, dict) else "",
)
def test_mixtures_of_experts_have_their_published_sizes(
    settings: dict[str, Any], total: float, active: float, experts: tuple[int, int]
) -> None:
    """Total and active billions as published by Mistral, Qwen, OpenAI, DeepSeek and Ai2."""
    shape = counted(settings)
    assert shape.parameters / 1e9 == pytest.approx(total, rel=2e-3)
    assert shape.active_parameters / 1e9 == pytest.approx(active, rel=6e-3)
    assert (shape.experts, shape.experts_per_token) == experts
    assert "experts are taken to be evenly loaded" in shape.notes


TINY = {
    "qwen2_moe": {"model_type": "qwen2_moe", **SMALL, "num_experts": 4, "moe_intermediate_size": 32},
    "deepseek_v3": {
        "model_type": "deepseek_v3",
        **SMALL,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "first_k_dense_replace": 1,
    },
    "llama": {"model_type": "llama", **SMALL},
    "gpt2": {"model_type": "gpt2", "n_embd": 48, "n_layer": 2, "n_head": 6, "vocab_size": 101, "n_positions": 32},
    "mixtral": {"model_type": "mixtral", **SMALL, "num_local_experts": 4},
    "llama4_text": {"model_type": "llama4_text", **SMALL, "intermediate_size_mlp": 80, "head_dim": 8},
}


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj"], ["gate_proj", "up_proj"]], ids=str)
@pytest.mark.parametrize("family", ["llama", "mixtral", "qwen2_moe", "deepseek_v3"])
def test_adapters_are_those_of_peft(family: str, targets: list[str]) -> None:
    import peft
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM

    from tasks.models.lora_targets import target_modules

    shape = counted(TINY[family])
    if not set(targets) <= {"all-linear", *(linear.name for linear in shape.linear_maps if linear.is_module)}:
        with pytest.raises(ConfigError, match="matches no linear layer"):
            shape.targeted(targets)
        return
    with torch.device("meta"):
        base = AutoModelForCausalLM.from_config(CONFIG_MAPPING[family].from_dict(TINY[family]))
        lora = peft.LoraConfig(r=3, target_modules=target_modules(base, targets), task_type="CAUSAL_LM")
        model = peft.get_peft_model(base, lora)
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    assert trained == sum(3 * linear.count * (linear.inputs + linear.outputs) for linear in shape.targeted(targets))


@pytest.mark.parametrize("family", TINY)
def test_adapters_and_quantized_weights_are_those_of_peft_and_bitsandbytes(family: str) -> None:
    import peft
    import torch
    from transformers import CONFIG_MAPPING, AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert

    from tasks.models.lora_targets import target_modules

    shape, config = counted(TINY[family]), CONFIG_MAPPING[family].from_dict(TINY[family])
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
        lora = peft.LoraConfig(r=3, target_modules=target_modules(model, ["all-linear"]), task_type="CAUSAL_LM")
        adapted = peft.get_peft_model(model, lora)
        quantized = AutoModelForCausalLM.from_config(config)
    trained = sum(weight.numel() for weight in adapted.parameters() if weight.requires_grad)
    targeted = shape.targeted(["all-linear"])
    assert trained == sum(3 * linear.count * (linear.inputs + linear.outputs) for linear in targeted)
    settings = BitsAndBytesConfig(load_in_8bit=True)
    replace_with_bnb_linear(quantized, get_keys_to_not_convert(quantized), settings)
    replaced = [module for module in quantized.modules() if type(module).__name__ == "Linear8bitLt"]
    assert shape.quantized_parameters == sum(module.in_features * module.out_features for module in replaced)


def test_a_projected_embedding_counts_at_its_own_width() -> None:
    narrow = {"model_type": "opt", "hidden_size": 48, "word_embed_proj_dim": 16, "num_hidden_layers": 2, "ffn_dim": 96}
    shape = counted({**narrow, "num_attention_heads": 6, "vocab_size": 101, "max_position_embeddings": 32})
    assert shape.embedding_parameters == 101 * 16
    assert {"project_in", "project_out"} <= {linear.name for linear in shape.linear_maps}

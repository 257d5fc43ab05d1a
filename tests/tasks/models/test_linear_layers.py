"""Which weights bitsandbytes quantizes: by the rule, by hand, and in models that it really quantized."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from support.tiny_families import FAMILIES, tiny_model_of
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, LlamaConfig, LlamaForSequenceClassification

from configs.linear_weights import LinearWeights
from tasks.models.linear_layers import plannable_weights, quantized_weights

# per layer: queries and output 64 x 64, keys and values 64 x 32
_ATTENTION = 2 * 64 * 64 + 2 * 64 * 32
_MLP = 3 * 64 * 96
_ROUTER = 4 * 64
BY_HAND = {
    "llama": LinearWeights(2 * (_ATTENTION + _MLP)),
    # 64 x 192, 64 x 64, and two of 64 x 256
    "gpt2": LinearWeights(2 * (64 * 192 + 64 * 64 + 2 * 64 * 256)),
    "phi": LinearWeights(2 * (_ATTENTION + 2 * 64 * 96)),
    # one key and value head of 16 for all queries
    "falcon": LinearWeights(0, (("FalconLinear", 2 * (64 * 96 + 64 * 64 + 2 * 64 * 256)),)),
    "mixtral": LinearWeights(2 * _ATTENTION, (("MixtralExperts", 8 * _MLP), ("MixtralTopKRouter", 2 * _ROUTER))),
    "qwen3_moe": LinearWeights(
        2 * _ATTENTION, (("Qwen3MoeExperts", 8 * 3 * 64 * 32), ("Qwen3MoeTopKRouter", 2 * _ROUTER))
    ),
    # with a shared expert of 64, and a gate of one output for it
    "qwen2_moe": LinearWeights(
        2 * (_ATTENTION + 3 * 64 * 64 + 64),
        (("Qwen2MoeExperts", 8 * 3 * 64 * 32), ("Qwen2MoeTopKRouter", 2 * _ROUTER)),
    ),
    "gpt_oss": LinearWeights(2 * _ATTENTION, (("GptOssExperts", 8 * _MLP), ("GptOssTopKRouter", 2 * _ROUTER))),
}
SETTINGS = {
    "8bit": {"load_in_8bit": True},
    "4bit": {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
}


@pytest.mark.parametrize("family", BY_HAND)
def test_weights_of_a_family_are_those_counted_by_hand(family: str) -> None:
    with torch.device("meta"):
        assert plannable_weights(tiny_model_of(family)) == BY_HAND[family]


@pytest.mark.parametrize("method", SETTINGS)
@pytest.mark.parametrize("family", BY_HAND)
def test_what_is_planned_is_what_bitsandbytes_quantizes(family: str, method: str, tmp_path: Path) -> None:
    tiny_model_of(family).save_pretrained(tmp_path)
    settings = BitsAndBytesConfig(**SETTINGS[method])
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path, quantization_config=settings, device_map={"": "cpu"})
    assert quantized_weights(loaded) == BY_HAND[family]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_that_is_not_quantized_has_no_quantized_weights(family: str) -> None:
    with torch.device("meta"):
        model = tiny_model_of(family)
        planned = plannable_weights(model)
        found = quantized_weights(model)
    assert found.quantized == 0
    assert found.total == planned.total


def test_the_head_of_a_reward_model_does_not_count() -> None:
    config = LlamaConfig(**FAMILIES["llama"], num_labels=1)
    with torch.device("meta"):
        assert plannable_weights(LlamaForSequenceClassification(config)) == BY_HAND["llama"]


def test_shares_and_kinds_in_words() -> None:
    weights = LinearWeights(25, (("Experts", 70), ("Router", 5)))
    assert weights.share == 0.25
    assert weights.left_in_words == "Experts (70.0%) and Router (5.0%)"
    assert (
        LinearWeights(25, (("Experts", 9974), ("Router", 1))).left_in_words == "Experts (99.7%) and Router (under 0.1%)"
    )
    assert LinearWeights(0).share == 0.0
    assert LinearWeights(8).share == 1.0
    # nearly all is not all
    assert LinearWeights(99_999, (("Router", 1),)).share < 1.0

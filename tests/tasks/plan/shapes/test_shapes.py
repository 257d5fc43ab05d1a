"""Shapes by hand: parameters, adapters' targets, and experts that are not modules."""

from __future__ import annotations

import pytest
from support.plan_inputs import LLAMA_2_7B

from configs.errors import ConfigError
from tasks.plan.shapes.shape import Linear, ModelShape

LLAMA_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
# 2 layers of width 4: attention as one map with a bias, a router that bitsandbytes leaves, 8 experts of 4 x 6 with
# biases, of which 2 are used; other parameters are the biases (2 x 12 + 16 x 6) and norms (5 x 4)
EXPERTS = ModelShape(
    "experts",
    4,
    2,
    2,
    2,
    6,
    10,
    experts=8,
    experts_per_token=2,
    linears=(
        Linear("qkv", 4, 12, 2, has_bias=True),
        Linear("router", 4, 8, 2, is_quantized=False),
        Linear("up_proj", 4, 6, 16, is_expert=True, has_bias=True, is_module=False, is_quantized=False, targets=()),
    ),
    other_parameters=24 + 96 + 20,
)


def test_a_llama_has_seven_linear_maps_in_each_layer() -> None:
    assert [(linear.name, linear.count) for linear in LLAMA_2_7B.linear_maps] == [(name, 32) for name in LLAMA_LINEARS]
    sizes = [(linear.inputs, linear.outputs) for linear in LLAMA_2_7B.linear_maps]
    assert sizes == [(4096, 4096)] * 4 + [(4096, 11008)] * 2 + [(11008, 4096)]
    # 4 x 4096^2 + 3 x 4096 x 11008, and two norms
    assert LLAMA_2_7B.layer_parameters == 202_375_168 + 8192
    assert LLAMA_2_7B.active_parameters == LLAMA_2_7B.parameters == 6_738_415_616
    assert LLAMA_2_7B.quantized_parameters == LLAMA_2_7B.linear_parameters == 32 * 202_375_168


def test_a_head_width_of_its_own_widens_the_queries_only() -> None:
    # queries 8 x 3 = 24, keys and values 4 x 3 = 12 of a token of width 16
    shape = ModelShape("own", 16, 1, 8, 4, 32, 10, head_width=3)
    assert (shape.query_width, shape.key_value_width) == (24, 12)
    assert shape.linear_parameters == 16 * 24 + 2 * 16 * 12 + 24 * 16 + 3 * 16 * 32


def test_a_token_passes_through_the_experts_it_is_routed_to_only() -> None:
    # 96 + 64 + 16 x 24, two tables of 40, 140 others
    assert EXPERTS.linear_parameters == 544
    assert EXPERTS.parameters == 544 + 80 + 140
    # a quarter of the 16 x (24 + 6) in experts is active
    assert EXPERTS.active_parameters == EXPERTS.parameters - 360
    assert EXPERTS.active_linear_parameters == 160 + 96
    assert EXPERTS.quantized_parameters == 96


def test_an_embedding_narrower_than_a_token_counts_at_its_own_width() -> None:
    shape = ModelShape("narrow", 8, 1, 2, 2, 16, 100, is_tied=True, embedding_width=4)
    assert shape.embedding_parameters == 400


def test_targets_are_chosen_by_the_end_of_a_modules_name() -> None:
    assert [linear.name for linear in LLAMA_2_7B.targeted(["all-linear"])] == LLAMA_LINEARS
    assert [linear.name for linear in LLAMA_2_7B.targeted(["v_proj", "self_attn.q_proj"])] == ["q_proj", "v_proj"]
    # experts that are one parameter are no linear layers
    assert [linear.name for linear in EXPERTS.targeted(["all-linear"])] == ["qkv", "router"]


@pytest.mark.parametrize("target", ["proj", "lm_head", "query_key_value"])
def test_targets_that_no_layer_has_are_refused_by_name(target: str) -> None:
    with pytest.raises(ConfigError) as refusal:
        LLAMA_2_7B.targeted(["q_proj", target])
    assert str(refusal.value) == (
        f"train.lora.target_modules: {target} matches no linear layer of Llama-2-7B; it has down_proj, gate_proj, "
        "k_proj, o_proj, q_proj, up_proj, v_proj"
    )


def test_experts_that_are_one_parameter_are_no_targets() -> None:
    with pytest.raises(ConfigError, match="up_proj matches no linear layer of experts; it has qkv, router"):
        EXPERTS.targeted(["up_proj"])


def test_merged_linear_maps_get_one_adapter_with_the_sum_of_their_ranks() -> None:
    merged = Linear("gate_up_proj", 4, 12, 8, is_expert=True, is_module=False, targets=("w1", "w3"))
    shape = ModelShape("merged", 4, 1, 2, 2, 6, 10, linears=(Linear("q_proj", 4, 4, 1), merged))
    assert [(linear.name, linear.count) for linear in shape.targeted(["all-linear"])] == [
        ("q_proj", 1),
        ("gate_up_proj", 16),
    ]
    assert [linear.name for linear in shape.targeted(["q_proj"])] == ["q_proj"]

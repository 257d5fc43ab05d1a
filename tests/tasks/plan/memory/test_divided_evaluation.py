"""The memory of an evaluation over several GPUs and in fewer bits: by hand, and as transformers divides models."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.plan_inputs import LLAMA_3_70B

from tasks.plan.memory.division import largest_part
from tasks.plan.memory.jobs import EvaluationJob
from tasks.plan.memory.peak import estimate_evaluation
from tasks.plan.shapes.shape import ModelShape

WHOLE = EvaluationJob(LLAMA_3_70B, batch_size=1, length=1024, new_tokens=0)
PARAMETERS = 70_553_706_496
# of 80 layers: q and o 2 x 8192 x 8192, k and v 2 x 8192 x 1024, gate, up and down 3 x 8192 x 28672
LINEAR = 80 * (134_217_728 + 16_777_216 + 704_643_072)
EMBEDDING = 128_256 * 8192


@pytest.mark.parametrize(
    ("limits", "held", "layers"),
    [
        # one GPU holds all of 4 layers of 10 bytes, an embedding and a head of 4
        (1, 48.0, 4),
        # 48 / 2 + 1.25 x 10 = 36.5; the first leaves a layer free: 4 + 2 x 10, then 2 x 10 + 4
        (2, 24.0, 2),
        # 48 / 4 + 12.5 = 24.5, 14.5 on the first: 4 + 10; 20; 10 + 4; nothing
        (4, 20.0, 2),
    ],
)
def test_layers_are_divided_in_their_order(limits: int, held: float, layers: int) -> None:
    part = largest_part(10.0, 4, (4.0, 4.0), limits, is_quantized=False)
    assert (part.weights, part.layers) == (held, layers)


def test_a_tied_head_is_where_the_embedding_is() -> None:
    # 30 / 2 + 12.5 = 27.5, less a layer on the first GPU: 10 alone, then both layers
    assert largest_part(10.0, 2, (10.0,), 2, is_quantized=False).weights == 20.0


def test_with_quantized_layers_the_last_gpu_holds_more() -> None:
    # 90 % of 36.5 is 32.85, less a layer: 4 + 10 on the first, and 3 x 10 + 4 on the second
    part = largest_part(10.0, 4, (4.0, 4.0), 2, is_quantized=True)
    assert (part.weights, part.layers) == (34.0, 3)


def test_two_gpus_hold_half_of_the_weights_each_and_the_logits_whole() -> None:
    # 40 layers and the embedding on the first, 40 layers and the head on the second
    plan = estimate_evaluation(replace(WHOLE, gpus=2))
    assert plan.weights == pytest.approx(2 * PARAMETERS / 2, rel=1e-9)
    # 1024 x 128,256 logits in 16 bits, in 32, and as log-probabilities
    assert plan.total - plan.weights == 1024 * 128_256 * (2 + 4 + 4)
    assert estimate_evaluation(WHOLE).weights == 2 * PARAMETERS


def test_keys_and_values_are_divided_with_the_layers() -> None:
    rows = replace(WHOLE, batch_size=64, new_tokens=2047, prompt_length=1, loss_length=0)
    whole, half = (estimate_evaluation(replace(rows, gpus=gpus)) for gpus in (1, 2))
    # 2 x 8 heads of 128 x 2 bytes for each layer, of 64 sequences of 2048 positions; a copy of one layer's keys
    of_a_layer = 2 * 8 * 128 * 2 * 64 * 2048
    assert whole.activations == 80 * of_a_layer + of_a_layer / 2
    assert half.activations == 40 * of_a_layer + of_a_layer / 2
    assert half.logits == whole.logits == 64 * 128_256 * (2 + 4)


def test_in_4_bits_linear_layers_take_half_a_byte_and_their_scales() -> None:
    plan = estimate_evaluation(replace(WHOLE, linear_bits=4))
    # an 8-bit scale for 64 weights, and a 32-bit one for 256 scales; embedding, head and norms have 16 bits
    assert plan.weights == LINEAR * (0.5 + 1 / 64 + 4 / 16_384) + 2 * (PARAMETERS - LINEAR)
    assert 39.5e9 < plan.weights < 39.6e9
    # while a layer computes, its largest map has 16 bits again
    layer = estimate_evaluation(replace(WHOLE, linear_bits=4, batch_size=64, loss_length=0, new_tokens=1))
    assert layer.buffers == 2 * 8192 * 28_672


def test_in_8_bits_linear_layers_take_a_byte_and_their_scales() -> None:
    outputs = 80 * (2 * 8192 + 2 * 1024 + 2 * 28_672 + 8192)
    expected = LINEAR + 4 * outputs + 2 * (PARAMETERS - LINEAR)
    assert estimate_evaluation(replace(WHOLE, linear_bits=8)).weights == expected


@pytest.mark.parametrize("gpus", [2, 3, 4, 8, 16])
@pytest.mark.parametrize("tied", [False, True])
def test_transformers_divides_a_model_the_same(gpus: int, tied: bool) -> None:
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig
    from transformers.integrations.accelerate import _get_device_map, compute_module_sizes

    shape = ModelShape("a", 1024, 24, 8, 8, 4096, 32000, is_tied=tied)
    config = LlamaConfig(
        hidden_size=1024,
        num_hidden_layers=24,
        num_attention_heads=8,
        intermediate_size=4096,
        vocab_size=32000,
        tie_word_embeddings=tied,
    )
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.tie_weights()
    places = _get_device_map(model, "auto", dict.fromkeys(range(gpus), 10**12), None)
    sizes, _ = compute_module_sizes(model, None)
    held, layers = [0] * gpus, [0] * gpus
    for name, place in places.items():
        is_second = tied and name == "lm_head"
        held[place] += 0 if is_second else sizes[name]
        layers[place] += name.startswith("model.layers.")
    job = EvaluationJob(shape, batch_size=1, length=8, new_tokens=8, prompt_length=8, loss_length=0, gpus=gpus)
    plan = estimate_evaluation(job)
    # norms are counted with the layers
    assert plan.weights == pytest.approx(max(held), rel=1e-3)
    assert sum(layers) == 24

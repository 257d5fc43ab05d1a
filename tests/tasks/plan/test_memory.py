"""Memory on paper: published tables to the rounding of their source, and what a real Llama saves to the byte."""

from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import pytest

from tasks.plan.jobs import TrainingJob
from tasks.plan.memory import (
    DEEPSPEED_16_BIT,
    BytesPerParameter,
    checkpoint_bytes,
    divided_states,
    estimate_memory,
    fits,
    gradient_temporaries_bytes,
    korthikanti_layer_bytes,
    layer_activation_bytes,
)
from tasks.plan.shapes import LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, LLAMA_3_8B, LLAMA_3_405B, ModelShape

MIB, GIB = 2**20, 2**30
LLAMA_65B = ModelShape("Llama-65B", 8192, 80, 64, 64, 22016, 32000)


@pytest.mark.parametrize(
    ("shape", "parameters"),
    [
        (LLAMA_2_7B, 6_738_415_616),
        (LLAMA_2_13B, 13_015_864_320),
        (LLAMA_2_70B, 68_976_648_192),
        (LLAMA_3_8B, 8_030_261_248),
        (LLAMA_3_405B, 405_853_388_800),
        (LLAMA_65B, 65_285_660_672),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_parameters_of_published_shapes_are_exact(shape: ModelShape, parameters: int) -> None:
    assert shape.parameters == parameters


def test_a_tied_head_counts_once() -> None:
    # 10 x 4 + 1 layer of (16 + 8 + 8 + 16 + 3 x 24 + 2 x 4) + the last norm of 4
    assert ModelShape("tied", 4, 1, 2, 1, 6, 10, is_tied=True).parameters == 40 + 128 + 4
    assert ModelShape("apart", 4, 1, 2, 1, 6, 10).parameters == 2 * 40 + 128 + 4


@pytest.mark.parametrize(("sharding", "gigabytes"), [("none", 120.0), ("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.9)])
def test_the_table_of_the_zero_paper(sharding: Any, gigabytes: float) -> None:
    """Figure 1 of https://arxiv.org/abs/1910.02054: 7.5 billion parameters, 64 GPUs, K = 12 bytes of optimizer."""
    assert BytesPerParameter(2, 2, 12) == DEEPSPEED_16_BIT
    states = divided_states(7.5e9, DEEPSPEED_16_BIT, sharding, num_gpus=64)
    assert round(states.total / 1e9, 1) == gigabytes


def test_full_fine_tuning_of_7b_needs_16_bytes_a_parameter_and_does_not_fit_in_80_gb() -> None:
    states = divided_states(7e9, BytesPerParameter(4, 4, 8), "none", num_gpus=1)
    assert states.total == 112e9
    memory = estimate_memory(TrainingJob(LLAMA_2_7B))
    assert memory.weights + memory.gradients + memory.optimizer == 16 * 6_738_415_616
    assert not fits(memory, 80e9)


def test_lora_of_rank_8_trains_0_3_percent_and_takes_about_14_gb() -> None:
    job = TrainingJob(LLAMA_2_7B, method="lora", lora_rank=8, length=512)
    # 8 x 32 layers x (4 x (4096 + 4096) + 3 x (4096 + 11008))
    assert job.trained_parameters == 19_988_480
    assert job.trained_parameters / LLAMA_2_7B.parameters == pytest.approx(0.003, abs=5e-5)
    memory = estimate_memory(job)
    states = memory.weights + memory.gradients + memory.optimizer
    assert states == 2 * 6_738_415_616 + 16 * 19_988_480
    assert states / 1e9 == pytest.approx(14, abs=0.3)


def test_bert_in_float32_as_accelerate_estimates_it() -> None:
    """The table for bert-base-cased in accelerate's guide on its model memory estimator; its MB are binary."""
    # tables of 28,996 words, 512 positions, 2 segments; a norm; 12 layers; a pooler
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    parameters = (28_996 + 512 + 2 + 2) * 768 + 12 * layer + 768 * 768 + 768
    assert parameters == 108_310_272
    states = divided_states(parameters, BytesPerParameter(4, 4, 8), "none", num_gpus=1)
    buffers = 2 * 512 * 8  # position and segment numbers, which accelerate counts with the parameters
    assert round((states.weights + buffers) / MIB, 2) == 413.18
    assert round((states.gradients + buffers) / MIB, 2) == 413.18
    assert round((states.weights + states.gradients + 2 * buffers) / MIB, 2) == 826.36
    assert round((states.total + 4 * buffers) / GIB, 2) == 1.61


def test_qlora_of_65b_fits_in_48_gb_where_16_bit_training_takes_780() -> None:
    """https://arxiv.org/abs/2305.14314: from more than 780 GB (12 bytes a parameter) to less than 48 GB."""
    assert divided_states(LLAMA_65B.parameters, BytesPerParameter(2, 2, 8), "none", 1).total / 1e9 > 780
    memory = estimate_memory(TrainingJob(LLAMA_65B, method="qlora", lora_rank=16, length=512))
    # 4 bits, a scale of 8 bits for 64 weights, one of 32 bits for 256 scales; tables and norms in 16 bits
    quantized = 64_760_053_760 * (0.5 + 1 / 64 + 4 / (64 * 256))
    other = 2 * (65_285_660_672 - 64_760_053_760)
    assert memory.weights == pytest.approx(quantized + other + 4 * 199_884_800, rel=1e-12)
    assert fits(memory, 48e9)


@pytest.mark.parametrize(
    ("sharding", "weights", "gradients", "optimizer"),
    [
        # 32-bit weights and gradients, 8 bytes of moments; 16 GPUs on 2 machines
        ("none", 4, 4, 8),
        ("fsdp_no_shard", 4, 4, 8),
        ("fsdp_full_shard", 4 / 16, 4 / 16, 8 / 16),
        ("fsdp_shard_grad_op", 4 / 16, 4 / 16, 8 / 16),
        ("fsdp_hybrid_shard", 4 / 8, 4 / 8, 8 / 8),
        ("zero1", 2, 2, 12 / 16),
        ("zero2", 2, 2 / 16, 12 / 16),
        ("zero3", 2 / 16, 2 / 16, 12 / 16),
    ],
)
def test_what_each_sharding_divides(sharding: Any, weights: float, gradients: float, optimizer: float) -> None:
    memory = estimate_memory(TrainingJob(LLAMA_2_7B, sharding=sharding, num_gpus=16))
    found = (memory.weights, memory.gradients, memory.optimizer)
    assert found == pytest.approx([n * 6_738_415_616 for n in (weights, gradients, optimizer)])


def test_tensor_parallel_divides_the_linear_maps_and_the_head_only() -> None:
    memory = estimate_memory(TrainingJob(LLAMA_3_8B, sharding="tensor_parallel", num_gpus=8))
    whole = 128_256 * 4096 + 65 * 4096  # embedding and norms
    assert memory.weights == 4 * (whole + (8_030_261_248 - whole) / 8)


def test_offload_leaves_no_optimizer_on_the_gpu_and_then_no_parameters() -> None:
    kept = estimate_memory(TrainingJob(LLAMA_2_7B, sharding="zero3", num_gpus=8))
    optimizer = estimate_memory(TrainingJob(LLAMA_2_7B, sharding="zero3", offload="optimizer", num_gpus=8))
    both = estimate_memory(TrainingJob(LLAMA_2_7B, sharding="zero3", offload="optimizer_and_parameters", num_gpus=8))
    assert kept.optimizer == 12 * 6_738_415_616 / 8 and kept.host == 0
    assert (optimizer.optimizer, optimizer.weights) == (0, kept.weights)
    assert (both.optimizer, both.weights) == (0, 0)
    # moments, 32-bit weights, gradients in 32 and in 16 bits; and then the 16-bit weights too
    assert optimizer.host == 18 * 6_738_415_616 / 8
    assert both.host == 20 * 6_738_415_616 / 8


def test_passes_that_add_up_under_fsdp_hold_whole_gradients_unless_each_is_reduced() -> None:
    job = TrainingJob(LLAMA_2_7B, sharding="fsdp_full_shard", num_gpus=64)
    one = estimate_memory(job)
    eight = estimate_memory(replace(job, accumulation=8, reduces_each_pass=False))
    each = estimate_memory(replace(job, accumulation=8))
    # two layers of 202,383,360 in 16 bits are waiting for their reduction, against all parameters
    assert eight.buffers - one.buffers == 2 * (6_738_415_616 - 2 * 202_383_360)
    assert each == one


def test_eight_bit_adam_keeps_its_moments_in_two_bytes() -> None:
    memory = estimate_memory(TrainingJob(LLAMA_2_7B, optimizer="adamw_8bit"))
    assert memory.optimizer == 2 * 6_738_415_616


def test_korthikanti_per_layer() -> None:
    """Equation 1 of https://arxiv.org/abs/2205.05198 for GPT-3: s = 2048, b = 1, h = 12288, a = 96."""
    tokens_width = 2048 * 12288
    # 5 a s / h = 5 x 96 x 2048 / 12288 = 80
    assert korthikanti_layer_bytes(12288, 96, 2048, 1, has_scores=True) == tokens_width * (34 + 80)
    assert korthikanti_layer_bytes(12288, 96, 2048, 1, has_scores=False) == tokens_width * 34


@pytest.mark.parametrize("length", [128, 129])
def test_activations_are_linear_in_tokens(length: int) -> None:
    one = layer_activation_bytes(LLAMA_2_7B, length, 16)
    assert layer_activation_bytes(LLAMA_2_7B, 2 * length, 16) == 2 * one
    assert layer_activation_bytes(LLAMA_2_7B, 0, 16) == 0


SMALL = ModelShape("small", 512, 4, 8, 8, 1376, 1000)


@pytest.mark.parametrize(("weight_bits", "precision"), [(16, "bfloat16"), (32, "bfloat16"), (32, "float32")])
def test_what_a_layer_saves_is_what_transformers_saves(weight_bits: int, precision: Any) -> None:
    """The difference between models of 4 and 2 layers, counted by PyTorch on tensors without data."""
    tokens = 2 * 512
    for has_checkpointing in (False, True):
        two, four = (saved(layers, weight_bits, precision, has_checkpointing) for layers in (2, 4))
        counted = (four.after_forward - two.after_forward) / 2
        if has_checkpointing:
            assert counted == checkpoint_bytes(SMALL, tokens, weight_bits)
            assert four.temporary == gradient_temporaries_bytes(SMALL, tokens, weight_bits, precision)
            continue
        casts = 0
        if weight_bits == 32 and precision == "bfloat16":
            casts = 2 * SMALL.linear_parameters // SMALL.layers
        assert counted - casts == layer_activation_bytes(SMALL, tokens, weight_bits, precision)


class Saved:
    """Bytes that a forward pass leaves, and temporary ones at the peak of the backward pass."""

    after_forward: int
    temporary: int


def saved(layers: int, weight_bits: int, precision: str, has_checkpointing: bool) -> Saved:
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.distributed._tools.mem_tracker import MemTracker
    from transformers import LlamaConfig, LlamaModel

    config = LlamaConfig(
        hidden_size=SMALL.hidden,
        intermediate_size=SMALL.intermediate,
        num_hidden_layers=layers,
        num_attention_heads=SMALL.heads,
        vocab_size=SMALL.vocabulary,
        use_cache=False,
    )
    result, before = Saved(), torch.get_default_dtype()
    with FakeTensorMode(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_default_dtype(torch.bfloat16 if weight_bits == 16 else torch.float32)
        try:
            model = LlamaModel(config).train()
        finally:
            torch.set_default_dtype(before)
        if has_checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        tracker = MemTracker()
        tracker.track_external(model)
        is_autocast = precision == "bfloat16" and weight_bits == 32
        with tracker:
            with torch.autocast("cpu", torch.bfloat16, enabled=is_autocast):
                loss = model(torch.zeros(2, 512, dtype=torch.long)).last_hidden_state.sum()
            result.after_forward = of_kind(tracker.get_tracker_snapshot("current"), "ACT")
            loss.backward()
        result.temporary = of_kind(tracker.get_tracker_snapshot("peak"), "TEMP")
    return result


def of_kind(snapshot: Any, kind: str) -> int:
    (of_device,) = snapshot.values()
    return next(count for name, count in of_device.items() if str(name).endswith(kind))

"""Planned memory against published tables, to the rounding of their source, and against sums by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.plan_inputs import LLAMA_2_7B, LLAMA_2_13B, LLAMA_2_70B, LLAMA_3_8B, LLAMA_3_405B

from tasks.plan.memory.jobs import EvaluationJob, TrainingJob
from tasks.plan.memory.moments import LAST_LAYER, LOSS, REFERENCE, STEP, Moment, moments_of
from tasks.plan.memory.peak import estimate_evaluation, estimate_memory
from tasks.plan.memory.states import DEEPSPEED_16_BIT, BytesPerParameter, sharded_states, states_of
from tasks.plan.shapes.shape import ModelShape

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
    states = sharded_states(7.5e9, DEEPSPEED_16_BIT, sharding, num_gpus=64)
    assert round(states.total / 1e9, 1) == gigabytes


def test_full_fine_tuning_of_7b_needs_16_bytes_a_parameter_and_does_not_fit_in_80_gb() -> None:
    states = sharded_states(7e9, BytesPerParameter(4, 4, 8), "none", num_gpus=1)
    assert states.total == 112e9
    job = TrainingJob(LLAMA_2_7B)
    assert states_of(job).total == 16 * 6_738_415_616
    assert estimate_memory(job).total > 80e9


def test_lora_of_rank_8_trains_0_3_percent_and_takes_about_14_gb() -> None:
    job = TrainingJob(LLAMA_2_7B, method="lora", lora_rank=8, length=512)
    # 8 x 32 layers x (4 x (4096 + 4096) + 3 x (4096 + 11008))
    assert job.trained_parameters == 19_988_480
    assert job.trained_parameters / LLAMA_2_7B.parameters == pytest.approx(0.003, abs=5e-5)
    states = states_of(job).total
    assert states == 2 * 6_738_415_616 + 16 * 19_988_480
    assert states / 1e9 == pytest.approx(14, abs=0.3)


def test_bert_in_float32_as_accelerate_estimates_it() -> None:
    """The table for bert-base-cased in accelerate's guide on its model memory estimator; its MB are binary."""
    # tables of 28,996 words, 512 positions, 2 segments; a norm; 12 layers; a pooler
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    parameters = (28_996 + 512 + 2 + 2) * 768 + 12 * layer + 768 * 768 + 768
    assert parameters == 108_310_272
    states = sharded_states(parameters, BytesPerParameter(4, 4, 8), "none", num_gpus=1)
    buffers = 2 * 512 * 8  # position and segment numbers, which accelerate counts with the parameters
    assert round((states.weights + buffers) / MIB, 2) == 413.18
    assert round((states.gradients + buffers) / MIB, 2) == 413.18
    assert round((states.weights + states.gradients + 2 * buffers) / MIB, 2) == 826.36
    assert round((states.total + 4 * buffers) / GIB, 2) == 1.61


def test_qlora_of_65b_fits_in_48_gb_where_16_bit_training_takes_780() -> None:
    """https://arxiv.org/abs/2305.14314: from more than 780 GB (12 bytes a parameter) to less than 48 GB."""
    assert sharded_states(LLAMA_65B.parameters, BytesPerParameter(2, 2, 8), "none", 1).total / 1e9 > 780
    memory = estimate_memory(TrainingJob(LLAMA_65B, method="qlora", lora_rank=16, length=512))
    # 4 bits, a scale of 8 bits for 64 weights, one of 32 bits for 256 scales; tables and norms in 16 bits
    quantized = 64_760_053_760 * (0.5 + 1 / 64 + 4 / (64 * 256))
    other = 2 * (65_285_660_672 - 64_760_053_760)
    assert memory.weights == pytest.approx(quantized + other + 4 * 199_884_800, rel=1e-12)
    assert memory.total <= 48e9


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
def test_each_sharding_divides_its_own_states(
    sharding: Any, weights: float, gradients: float, optimizer: float
) -> None:
    memory = states_of(TrainingJob(LLAMA_2_7B, sharding=sharding, num_gpus=16))
    found = (memory.weights, memory.gradients, memory.optimizer)
    assert found == pytest.approx([n * 6_738_415_616 for n in (weights, gradients, optimizer)])


def test_tensor_parallel_divides_the_linear_maps_and_the_head_only() -> None:
    memory = states_of(TrainingJob(LLAMA_3_8B, sharding="tensor_parallel", num_gpus=8))
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


def test_accumulation_under_fsdp_holds_whole_gradients_unless_each_micro_batch_reduces() -> None:
    job = TrainingJob(LLAMA_2_7B, sharding="fsdp_full_shard", num_gpus=64)
    one = moment(LAST_LAYER, job)
    reduced_once = moment(LAST_LAYER, replace(job, accumulation=8, reduces_each_micro_batch=False))
    reduced_each = moment(LAST_LAYER, replace(job, accumulation=8))
    # all parameters in 16 bits, against two layers of 202,383,360 that wait for their reduction
    assert reduced_once.buffers - one.buffers == 2 * (6_738_415_616 - 2 * 202_383_360)
    assert reduced_each.buffers == one.buffers


def test_eight_bit_adam_keeps_its_moments_in_two_bytes() -> None:
    memory = estimate_memory(TrainingJob(LLAMA_2_7B, optimizer="adamw_8bit"))
    assert memory.optimizer == 2 * 6_738_415_616


def moment(name: str, job: TrainingJob) -> Moment:
    return next(found for found in moments_of(job) if found.name == name)


def test_the_first_micro_batch_of_a_step_has_no_gradients_yet() -> None:
    job = TrainingJob(LLAMA_2_7B, length=512)
    assert moment(LOSS, job).gradients == 0
    assert moment(LOSS, replace(job, accumulation=2)).gradients == 4 * 6_738_415_616


def test_the_optimizers_step_has_no_activations_and_deepspeed_copies_its_gradients() -> None:
    """Fused AdamW allocates nothing. DeepSpeed flattens a shard's gradients, and AdamW takes their root: 4 + 4."""
    assert moment(STEP, TrainingJob(LLAMA_2_7B)).total == 16 * 6_738_415_616
    step = moment(STEP, TrainingJob(LLAMA_2_7B, "zero2", num_gpus=8))
    assert (step.activations, step.logits) == (0, 0)
    assert step.buffers == (4 + 4) * 6_738_415_616 / 8


def test_deepspeeds_buckets_have_their_full_size_however_small_the_model_is() -> None:
    small = ModelShape("small", 64, 2, 2, 2, 128, 1000)
    assert moment(LAST_LAYER, TrainingJob(small, "zero1", num_gpus=2)).buffers == 2 * 200_000_000
    assert moment(LAST_LAYER, TrainingJob(small, "zero2", num_gpus=2, reduce_bucket=500)).buffers == 2 * 2 * 500


def test_a_reference_is_a_second_model_only_where_all_weights_are_trained() -> None:
    full = TrainingJob(LLAMA_2_7B, objective="dpo", has_reference=True)
    lora = replace(full, method="lora")
    assert moment(LOSS, full).weights == 2 * 4 * 6_738_415_616
    assert moment(LOSS, lora).weights == moment(LOSS, replace(lora, has_reference=False)).weights
    # the adapter is switched off for a second forward pass
    assert REFERENCE in [found.name for found in moments_of(lora)]


def test_a_pair_is_two_sequences_and_a_reward_model_has_no_logits() -> None:
    sft = TrainingJob(LLAMA_2_7B, method="lora", length=512)
    dpo = moment(LOSS, replace(sft, objective="dpo"))
    assert dpo.activations == 2 * moment(LOSS, sft).activations
    reward = replace(sft, objective="reward", method="full")
    assert moment(LOSS, reward).logits == 0
    assert reward.trained_parameters == 6_738_415_616 - 32_000 * 4096


def test_generated_answers_have_keys_and_values_for_all_micro_batches_of_a_step() -> None:
    job = TrainingJob(
        LLAMA_3_8B, method="lora", objective="grpo", length=512, max_new_tokens=512, micro_batch=4, accumulation=16
    )
    generation = moments_of(job)[0]
    # 2 x 32 layers x 8 heads of 128 x 2 bytes, of 64 sequences of 1024 positions
    cache = 131_072 * 64 * 1024
    assert cache < generation.activations < 2.2 * cache


def test_evaluation_holds_weights_once_and_the_larger_of_logits_and_cache() -> None:
    job = EvaluationJob(LLAMA_3_8B, batch_size=1, length=1024, new_tokens=0)
    plan = estimate_evaluation(job)
    # 1024 x 128,256 logits in 16 bits, in 32, and as log-probabilities
    assert plan.total == 2 * 8_030_261_248 + 1024 * 128_256 * (2 + 4 + 4)
    answers = estimate_evaluation(replace(job, batch_size=64, new_tokens=1024, prompt_length=1024))
    assert answers.total > 2 * 8_030_261_248 + 131_072 * 64 * 1024
    assert (answers.gradients, answers.optimizer) == (0, 0)


def test_without_a_held_out_loss_the_evaluation_holds_no_logits_of_whole_rows() -> None:
    job = EvaluationJob(LLAMA_3_8B, batch_size=1, length=1024, new_tokens=1023, prompt_length=1)
    weights = 2 * 8_030_261_248
    whole, pieces, none = (estimate_evaluation(replace(job, loss_length=length)) for length in (None, 512, 0))
    # logits in 16 bits, in 32, and as log-probabilities: of 1024 tokens, and of a piece of general text
    assert whole.total == weights + 1024 * 128_256 * (2 + 4 + 4)
    assert pieces.total == weights + 512 * 128_256 * (2 + 4 + 4)
    # keys and values of 1024 positions, one layer's keys again, one token's logits in 16 and in 32 bits
    cache = 131_072 * 1024
    assert none.total == weights + cache + cache / 64 + 128_256 * (2 + 4)

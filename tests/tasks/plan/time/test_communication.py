"""Bytes that a GPU sends in a step, worked out by hand from the ring formulas."""

from __future__ import annotations

from typing import Any

import pytest
from support.plan_inputs import LLAMA_2_7B, LLAMA_2_70B, LLAMA_3_8B

from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.time.communication import sent_bytes, step_collectives

P = 6_738_415_616


def sent(sharding: Any, **settings: Any) -> float:
    return sum(collective.sent_bytes for collective in step_collectives(TrainingJob(LLAMA_2_7B, sharding, **settings)))


def test_a_ring_sends_each_part_once_around() -> None:
    # each of 8 GPUs sends 7 of 8 parts; an all-reduce is a reduce-scatter and an all-gather
    assert sent_bytes("all_gather", 800, 8) == 700
    assert sent_bytes("reduce_scatter", 800, 8) == 700
    assert sent_bytes("all_reduce", 800, 8) == 1400
    assert sent_bytes("all_reduce", 800, 1) == 0


def test_one_gpu_sends_nothing() -> None:
    for sharding in ("none", "zero1", "zero2", "zero3", "fsdp_full_shard", "fsdp_hybrid_shard", "tensor_parallel"):
        assert sent(sharding, num_gpus=1) == 0


def test_ddp_reduces_32_bit_gradients_once_a_step_however_many_micro_batches() -> None:
    assert sent("none", num_gpus=64) == pytest.approx(2 * 63 / 64 * 4 * P)
    assert sent("none", num_gpus=64, accumulation=8) == sent("fsdp_no_shard", num_gpus=64)


def test_lora_under_ddp_sends_the_adapter_alone() -> None:
    job = TrainingJob(LLAMA_2_7B, method="lora", lora_rank=8, num_gpus=2)
    assert sum(collective.sent_bytes for collective in step_collectives(job)) == 2 * 1 / 2 * 4 * 19_988_480


def test_zero_1_and_2_on_paper_and_as_deepspeed_sends_them() -> None:
    """https://arxiv.org/abs/1910.02054 section 7.2.1: 2 Psi, as much as data parallelism in the same type. DeepSpeed
    all-reduces the gradients, which sends half as much again."""
    part = 63 / 64 * 2 * P
    for sharding in ("zero1", "zero2"):
        assert sent(sharding, num_gpus=64) == pytest.approx(3 * part)
    job = TrainingJob(LLAMA_2_7B, "zero1", num_gpus=64)
    on_paper = sum(collective.sent_bytes for collective in step_collectives(job, on_paper=True))
    assert on_paper == pytest.approx(2 * part)


def test_zero_1_reduces_once_a_step_and_zero_2_in_each_micro_batch() -> None:
    part = 63 / 64 * 2 * P
    assert sent("zero1", num_gpus=64, accumulation=4) == pytest.approx(3 * part)
    assert sent("zero2", num_gpus=64, accumulation=4) == pytest.approx((4 * 2 + 1) * part)


HEAD = 32_000 * 4096 + 4096  # with the last norm


@pytest.mark.parametrize(("sharding", "kept"), [("zero3", 500_000_000), ("fsdp_full_shard", HEAD)])
def test_full_sharding_sends_half_more_than_data_parallelism(sharding: Any, kept: int) -> None:
    """https://arxiv.org/abs/1910.02054 section 7.2.2: 3 Psi, less what is not gathered a second time."""
    part = 63 / 64 * 2
    assert sent(sharding, num_gpus=64) == pytest.approx(part * (3 * P - kept))


def test_zero_3_and_fsdp_reduce_in_each_micro_batch() -> None:
    part = 63 / 64 * 2
    assert sent("zero3", num_gpus=64, accumulation=4) == pytest.approx(4 * part * (3 * P - 500_000_000))
    four_reductions = 4 * part * (3 * P - HEAD)
    assert sent("fsdp_full_shard", num_gpus=64, accumulation=4) == pytest.approx(four_reductions)
    one_reduction = sent("fsdp_full_shard", num_gpus=64, accumulation=4, reduces_each_micro_batch=False)
    assert one_reduction == pytest.approx(four_reductions - 3 * part * P)


def test_a_small_model_is_gathered_once_by_zero_3() -> None:
    """DeepSpeed keeps gathered parameters that are used again within 10^9 parameters."""
    small = ModelShape("small", 1024, 12, 16, 16, 2816, 32_000)
    collectives = step_collectives(TrainingJob(small, "zero3", num_gpus=2))
    assert sum(collective.sent_bytes for collective in collectives) == pytest.approx(2 * 1 / 2 * 2 * small.parameters)


def test_shard_grad_op_gathers_once_a_micro_batch() -> None:
    assert sent("fsdp_shard_grad_op", num_gpus=64) == pytest.approx(2 * 63 / 64 * 2 * P)


def test_hybrid_sharding_sends_little_between_machines() -> None:
    collectives = step_collectives(TrainingJob(LLAMA_2_7B, "fsdp_hybrid_shard", num_gpus=64))
    within_machines = [collective for collective in collectives if collective.ranks_per_node > 1]
    between_machines = [collective for collective in collectives if collective.ranks_per_node == 1]
    assert sum(collective.sent_bytes for collective in within_machines) == pytest.approx(7 / 8 * 2 * (3 * P - HEAD))
    # each of 8 machines has a copy of the model, and a GPU averages its eighth of the gradients with the others
    assert sum(collective.sent_bytes for collective in between_machines) == pytest.approx(2 * 7 / 8 * 2 * P / 8)


def test_hybrid_sharding_of_one_machine_is_full_sharding() -> None:
    assert sent("fsdp_hybrid_shard", num_gpus=8) == pytest.approx(sent("fsdp_full_shard", num_gpus=8))


def test_lora_under_full_sharding_gathers_the_base_and_reduces_the_adapter() -> None:
    job = TrainingJob(LLAMA_2_7B, "fsdp_full_shard", method="lora", lora_rank=8, num_gpus=64)
    expected = 63 / 64 * 2 * (2 * (P + 19_988_480) + 19_988_480 - HEAD)
    assert sum(collective.sent_bytes for collective in step_collectives(job)) == pytest.approx(expected)


@pytest.mark.parametrize(("has_checkpointing", "on_paper", "per_layer"), [(False, 4, 7), (True, 6, 9)])
def test_tensor_parallel_reduces_activations_in_each_layer_and_micro_batch(
    has_checkpointing: bool, on_paper: int, per_layer: int
) -> None:
    """https://arxiv.org/abs/1909.08053: two all-reduces forward, two backward; recomputing repeats the forward ones.
    transformers' backward pass has one for each of q, k, v, gate and up."""
    job = TrainingJob(
        LLAMA_2_70B,
        "tensor_parallel",
        num_gpus=8,
        micro_batch=2,
        length=1000,
        accumulation=3,
        has_checkpointing=has_checkpointing,
    )
    bytes_per_reduction = 2 * 7 / 8 * 2000 * 8192 * 2
    published = step_collectives(job, on_paper=True)
    assert sum(collective.calls for collective in published) == 3 * 80 * on_paper
    assert sum(collective.sent_bytes for collective in published) == pytest.approx(
        3 * 80 * on_paper * bytes_per_reduction
    )
    # one more reduction for the gradient of the head's input, and a gather of the head's 32-bit weights
    collectives = step_collectives(job)
    reduced = [collective for collective in collectives if collective.kind == "all_reduce"]
    assert sum(collective.calls for collective in reduced) == 3 * (80 * per_layer + 1)
    assert sum(collective.sent_bytes for collective in reduced) == pytest.approx(
        3 * (80 * per_layer + 1) * bytes_per_reduction
    )
    (head,) = (collective for collective in collectives if collective.kind == "all_gather")
    assert (head.calls, head.sent_bytes) == (3, 3 * 7 / 8 * 32_000 * 8192 * 4)


def test_layers_hand_on_activations_and_gradients() -> None:
    job = TrainingJob(LLAMA_3_8B, "layers", num_gpus=4, length=1024)
    # a GPU in the middle sends its output on and a gradient back
    assert sum(collective.sent_bytes for collective in step_collectives(job)) == 2 * 1024 * 4096 * 4


def test_collectives_of_full_sharding_are_one_for_each_unit() -> None:
    # 32 layers, the embedding, norm and head: all are gathered, all but the last again, and all are reduced
    collectives = step_collectives(TrainingJob(LLAMA_2_7B, "fsdp_full_shard", num_gpus=8))
    assert [collective.calls for collective in collectives] == [34, 33, 34]

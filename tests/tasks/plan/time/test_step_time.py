"""Expected step times, worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support.flops import hardware_flops, mfu, model_flops, palm_flops_per_token, tokens_per_second_and_gpu
from support.plan_inputs import GPU_TYPES, LLAMA_2_13B, LLAMA_3_8B, LLAMA_3_70B

from tasks.plan.hardware.gpus import GpuType
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.shapes.architectures import known_shape, shape_of
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.time.communication import Collectives
from tasks.plan.time.step_time import (
    LINK_EFFICIENCY,
    bus_bandwidth,
    collective_seconds,
    estimate_step_time,
    latency_seconds,
)

H100 = GPU_TYPES["H100-SXM"]
# 1 layer, 4 wide: 16 + 8 + 8 + 16 + 3 x 24 = 120 linear parameters, and a head of 40
TOY = ModelShape("toy", 4, 1, 2, 1, 6, 10)


def test_model_flops_are_6_for_a_parameter_and_token_and_causal_attention() -> None:
    # a micro-batch of 2 rows of 5 tokens: 6 x 160 x 10; attention 6 x layers x hidden x 25 for each row
    assert model_flops(TrainingJob(TOY, micro_batch=2, length=5)) == 6 * 160 * 10 + 6 * 4 * 25 * 2
    assert model_flops(TrainingJob(TOY, micro_batch=2, length=5, accumulation=3)) == 3 * (9600 + 1200)


@pytest.mark.parametrize(
    ("shape", "length", "tokens_per_second", "mfu"),
    [(LLAMA_3_8B, 8192, 2904, 56.8), (LLAMA_3_70B, 8192, 331, 51.7), (LLAMA_2_13B, 4096, 2162, 61.1)],
    ids=lambda value: getattr(value, "name", ""),
)
def test_published_tokens_a_second_give_the_published_mfu(
    shape: ModelShape, length: int, tokens_per_second: float, mfu: float
) -> None:
    """docs/performance.md of https://github.com/pytorch/torchtitan: FSDP2 on 64 A100."""
    assert round(100 * palm_flops_per_token(shape, length) * tokens_per_second / 312e12, 1) == mfu


def test_lora_needs_no_gradients_of_frozen_weights() -> None:
    job = TrainingJob(TOY, method="lora", lora_rank=2, micro_batch=1, length=10)
    # inputs and outputs of q 8, k 6, v 6, o 8, gate 10, up 10, down 10; keys and values are 2 wide
    adapter = 2 * 58
    assert job.trained_parameters == adapter
    assert model_flops(job) == (4 * 160 + 6 * adapter) * 10 + 6 * 4 * 100


def test_checkpointing_computes_the_layers_again_but_not_the_head() -> None:
    kept = TrainingJob(TOY, micro_batch=1, length=10, has_checkpointing=False)
    again = replace(kept, has_checkpointing=True)
    assert hardware_flops(kept) == model_flops(kept)
    assert hardware_flops(again) - hardware_flops(kept) == 2 * 120 * 10 + 2 * 4 * 100


def test_a_ring_over_machines_is_as_fast_as_the_network_of_a_machine() -> None:
    assert bus_bandwidth(H100, ranks=8, ranks_per_node=8) == LINK_EFFICIENCY * 450e9
    assert bus_bandwidth(H100, ranks=16, ranks_per_node=8) == LINK_EFFICIENCY * 8 * 50e9
    # with one GPU of each machine, each has a network adapter to itself
    assert bus_bandwidth(H100, ranks=2, ranks_per_node=1) == LINK_EFFICIENCY * 50e9
    # a network faster than the links within the machine does not help
    fast = replace(H100, network_bandwidth=500e9)
    assert bus_bandwidth(fast, ranks=16, ranks_per_node=8) == LINK_EFFICIENCY * 450e9


def test_latency_counts_hops_within_and_between_machines() -> None:
    # 16 GPUs on 2 machines: 15 hops, 1 between machines; an all-reduce goes round twice
    gather = Collectives("all_gather", "forward", 0.0, 1, 16, 8)
    assert latency_seconds(gather) == pytest.approx(14 * 3.4e-6 + 1 * 14e-6)
    reduce = Collectives("all_reduce", "forward", 0.0, 3, 16, 8)
    assert latency_seconds(reduce) == pytest.approx(3 * 2 * (14 * 3.4e-6 + 14e-6))


def test_a_collective_takes_its_bytes_over_the_bandwidth_and_its_hops() -> None:
    gather = Collectives("all_gather", "forward", 16e9, 1, 8, 8)
    expected = 7 / 8 * 16e9 / (LINK_EFFICIENCY * 450e9) + 7 * 3.4e-6
    assert collective_seconds(gather, H100) == pytest.approx(expected)


def plain_gpu(**settings: float) -> GpuType:
    return replace(H100, peak_flops=1e12, compute_utilization=0.5, **settings)


def test_one_gpu_computes_and_updates_and_waits_for_nobody() -> None:
    job = TrainingJob(TOY, micro_batch=1, length=10, has_checkpointing=False)
    time = estimate_step_time(job, plain_gpu(memory_bandwidth=1e12))
    assert time.compute == pytest.approx((6 * 160 * 10 + 2400) / 0.5e12)
    # 4 bytes each of weight, gradient and two moments are read, and three of them written
    # 80 of tables, 120, 8 of the layer's norms, 4 of the last one
    assert TOY.parameters == 212
    assert time.optimizer == pytest.approx(212 * 28 / 1e12)
    assert time.exposed_communication == 0
    assert time.total == pytest.approx(time.compute + time.optimizer)


def test_overlapping_communication_costs_only_what_exceeds_the_computation() -> None:
    job = TrainingJob(LLAMA_3_8B, "fsdp_full_shard", num_gpus=64, micro_batch=4, length=8192)
    long = estimate_step_time(job, H100)
    assert long.exposed_communication == 0 < long.communication
    short = estimate_step_time(replace(job, micro_batch=1, length=128), H100)
    assert short.exposed_communication == pytest.approx(short.communication - short.compute, rel=0.05)


def test_tensor_parallel_waits_for_all_it_sends() -> None:
    job = TrainingJob(LLAMA_3_8B, "tensor_parallel", num_gpus=8)
    time = estimate_step_time(job, H100)
    assert time.exposed_communication == time.communication > 0
    alone = estimate_step_time(replace(job, sharding="none", num_gpus=1), H100)
    assert time.compute == pytest.approx(alone.compute / 8)


def test_layers_compute_one_after_the_other() -> None:
    job = TrainingJob(LLAMA_3_8B, "layers", num_gpus=4)
    assert estimate_step_time(job, H100).compute == estimate_step_time(replace(job, num_gpus=1), H100).compute


def test_mfu_and_tokens_a_second_follow_from_the_time() -> None:
    job = TrainingJob(LLAMA_3_8B, "fsdp_full_shard", num_gpus=8, micro_batch=2)
    time = estimate_step_time(job, H100)
    assert tokens_per_second_and_gpu(job, H100) == pytest.approx(2 * 4096 / time.total)
    assert mfu(job, H100) == pytest.approx(model_flops(job) / time.total / 989e12)
    assert mfu(job, H100) < H100.compute_utilization


def test_offload_moves_gradients_down_and_weights_up_over_pci_express() -> None:
    job = TrainingJob(LLAMA_3_8B, "zero2", offload="optimizer", num_gpus=8)
    kept = estimate_step_time(replace(job, offload="none"), H100)
    moved = estimate_step_time(job, H100)
    own = 8_030_261_248 / 8
    assert moved.host_transfer == pytest.approx(2 * 2 * own / (LINK_EFFICIENCY * 64e9))
    assert moved.optimizer > 20 * kept.optimizer


@pytest.mark.parametrize("gpu", GPU_TYPES.values(), ids=lambda gpu: gpu.name)
def test_each_gpu_names_its_source(gpu: GpuType) -> None:
    assert "data sheet" in gpu.source
    assert 0 < gpu.compute_utilization < 1
    assert gpu.network_bandwidth < gpu.gpu_link_bandwidth < gpu.memory_bandwidth


def test_a_token_passes_through_some_experts_only() -> None:
    known = known_shape("mistralai/Mixtral-8x7B-v0.1")
    assert known is not None
    shape = shape_of(known.settings, known.name)
    # attention, the router, 2 of 8 experts, and the head
    layer = 4096 * (4096 + 1024 + 1024 + 4096) + 8 * 4096 + 2 * 3 * 4096 * 14336
    flops = model_flops(TrainingJob(shape, micro_batch=1, length=100))
    assert flops == 6 * (32 * layer + 32000 * 4096) * 100 + 6 * 32 * 4096 * 100**2


def test_short_rows_wait_for_the_weights_to_be_read() -> None:
    job = TrainingJob(LLAMA_3_8B, micro_batch=1, length=1, accumulation=4, has_checkpointing=False)
    slow = replace(H100, memory_bandwidth=1e12)
    # 2 bytes of each parameter, once forward and twice backward, in each of 4 micro-batches
    assert estimate_step_time(job, slow).compute == pytest.approx(4 * 3 * 2 * 8_030_261_248 / 1e12)
    # with a row of 8,192 tokens the arithmetic takes longer than the reading
    long = replace(job, length=8192)
    assert estimate_step_time(long, slow).compute == pytest.approx(model_flops(long) / (989e12 * 0.4))

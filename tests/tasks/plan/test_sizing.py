"""The micro-batch and the GPU type that a plan chooses: the largest micro-batch that fits, to the byte."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.plan_inputs import GPU_TYPES, LLAMA_2_7B, LLAMA_3_8B

from configs.schema import EvaluateConfig, FineTuneConfig
from configs.schema.evaluate import RetainedConfig
from tasks.plan.hardware.target import Target, gpu_target
from tasks.plan.sizing import (
    CPU_PROCESS_BYTES,
    GPU_CONTEXT_BYTES,
    evaluation_job,
    evaluation_memory,
    fits_evaluation,
    fits_training,
    longest_rows,
    possible_micro_batches,
    smallest_target,
    training_job,
    training_memory,
    with_evaluation_rows,
    with_micro_batch,
)

A100 = gpu_target(GPU_TYPES["A100-80GB"])
TYPES = list(GPU_TYPES.values())


def config(tokenize: dict[str, Any] | None = None, **train: Any) -> FineTuneConfig:
    return FineTuneConfig.model_validate(
        {
            "model": {"name": "a/b"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "tokenize": {"max_length": 2048, **(tokenize or {})},
            "train": {"batch_size": 16, **train},
        }
    )


def needed(rows: int, **train: Any) -> int:
    chosen = config(micro_batch_size=rows, **train)
    return training_memory(training_job(chosen, LLAMA_3_8B, A100), A100).total


@pytest.mark.parametrize(("spare", "rows"), [(0, 4), (-1, 2)])
def test_the_micro_batch_is_the_largest_that_fits_to_the_byte(spare: int, rows: int) -> None:
    target = replace(A100, memory_bytes=needed(4) + spare)
    assert with_micro_batch(config(), LLAMA_3_8B, target).train.micro_batch_size == rows


def test_where_no_micro_batch_fits_the_smallest_is_chosen_and_does_not_fit() -> None:
    chosen = with_micro_batch(config(), LLAMA_3_8B, replace(A100, memory_bytes=1e9))
    assert chosen.train.micro_batch_size == 1
    assert not fits_training(chosen, LLAMA_3_8B, replace(A100, memory_bytes=1e9))


def test_a_micro_batch_that_the_user_sets_stays() -> None:
    assert with_micro_batch(config(micro_batch_size=16), LLAMA_3_8B, A100).train.micro_batch_size == 16


@pytest.mark.parametrize(
    ("train", "sizes"),
    [
        ({"batch_size": 16}, [8, 4, 2, 1]),
        ({"batch_size": 6}, [6, 3, 2, 1]),
        # two processes share 24 rows: 12 each
        ({"batch_size": 24, "processes_per_node": 2}, [6, 4, 3, 2, 1]),
        # all processes of a machine see the same rows
        ({"batch_size": 4, "processes_per_node": 4, "sharding": "tensor_parallel", "method": "full"}, [4, 2, 1]),
        ({"batch_size": 6, "objective": "kto"}, [6, 3, 2]),
        ({"batch_size": 5, "processes_per_node": 2}, []),
    ],
)
def test_candidates_divide_the_batch(train: dict[str, Any], sizes: list[int]) -> None:
    assert possible_micro_batches(config(**train).train) == sizes


def test_without_a_gpu_type_the_smallest_for_the_largest_micro_batch_is_chosen() -> None:
    chosen = smallest_target(config(), LLAMA_3_8B, TYPES)
    at_eight = [gpu for gpu in TYPES if gpu.memory_bytes >= needed(8)]
    assert chosen.name == at_eight[0].name
    # a micro-batch of one row needs no larger type
    assert smallest_target(config(micro_batch_size=1), LLAMA_3_8B, TYPES).memory_bytes <= chosen.memory_bytes


def test_a_model_that_fits_no_type_is_planned_for_the_largest() -> None:
    target = smallest_target(config(method="full"), replace(LLAMA_2_7B, layers=320), TYPES)
    assert target.name == "H200"


def test_auto_means_what_the_device_has() -> None:
    on_gpu = training_job(config(), LLAMA_3_8B, A100)
    assert (on_gpu.precision, on_gpu.has_checkpointing) == ("bfloat16", True)
    on_t4 = training_job(config(), LLAMA_3_8B, gpu_target(GPU_TYPES["T4"]))
    assert (on_t4.precision, on_t4.has_checkpointing) == ("float32", True)
    on_cpu = training_job(config(), LLAMA_3_8B, Target("CPU", 64e9))
    assert (on_cpu.precision, on_cpu.has_checkpointing) == ("float32", False)
    prefix = training_job(config(method="prefix_tuning"), LLAMA_3_8B, A100)
    assert not prefix.has_checkpointing and prefix.length == 2048 + 20


def test_eight_bit_states_are_planned_only_where_the_sharding_has_them() -> None:
    eight_bit = {"efficiency": {"optimizer": "adamw_8bit"}, "method": "full"}
    assert training_job(config(**eight_bit), LLAMA_3_8B, A100).optimizer == "adamw_8bit"
    sharded = {"sharding": "fsdp_full_shard", "processes_per_node": 2}
    assert training_job(config(**eight_bit, **sharded), LLAMA_3_8B, A100).optimizer == "adamw"


def test_processes_of_a_cpu_share_its_memory() -> None:
    one = config(method="full", micro_batch_size=1)
    use = training_memory(training_job(one, LLAMA_3_8B, Target("CPU", 1)), Target("CPU", 1))
    assert (use.fragmentation, use.context) == (0, CPU_PROCESS_BYTES)
    two = config(method="full", micro_batch_size=1, processes_per_node=2)
    of_two = training_memory(training_job(two, LLAMA_3_8B, Target("CPU", 1)), Target("CPU", 1)).total
    assert fits_training(two, LLAMA_3_8B, Target("CPU", 2 * of_two))
    assert not fits_training(two, LLAMA_3_8B, Target("CPU", 2 * of_two - 1))
    assert training_memory(training_job(one, LLAMA_3_8B, A100), A100).context == GPU_CONTEXT_BYTES


def test_length_is_what_the_tokenize_stage_takes() -> None:
    assert longest_rows(config(), LLAMA_3_8B) == 2048
    unset = config({"max_length": None})
    assert longest_rows(unset, replace(LLAMA_3_8B, positions=1024)) == 1024
    assert longest_rows(unset, replace(LLAMA_3_8B, positions=131072)) == 2048


def test_an_evaluation_without_answers_needs_less() -> None:
    whole = config()
    without = whole.model_copy(update={"evaluate": whole.evaluate.model_copy(update={"generate_rows": 0})})
    assert evaluation_memory(without, LLAMA_3_8B, A100).total <= evaluation_memory(whole, LLAMA_3_8B, A100).total
    assert evaluation_memory(whole, LLAMA_3_8B, A100).weights == 2 * 8_030_261_248


def test_a_range_of_machines_is_planned_for_its_lower_bound() -> None:
    sharded = {"method": "full", "sharding": "fsdp_full_shard", "processes_per_node": 4, "micro_batch_size": 1}
    ranged, one, two = (training_job(config(nodes=nodes, **sharded), LLAMA_3_8B, A100) for nodes in ("1:2", 1, 2))
    assert ranged == one
    assert (ranged.num_gpus, ranged.accumulation) == (4, 4)
    # with half the GPUs each has twice the states
    assert training_memory(one, A100).optimizer == 2 * training_memory(two, A100).optimizer


@pytest.mark.parametrize(
    ("evaluate", "objective", "tokens"),
    [
        ({}, "sft", 2048),
        ({"loss": "skip"}, "sft", 512),
        ({"loss": "skip", "retained": {"general_text": "none"}}, "sft", 0),
        # preferences are log-probabilities too
        ({"loss": "skip", "retained": {"general_text": "none"}}, "dpo", 2048),
        ({"loss": "skip", "retained": {"general_text": "none"}}, "kto", 2048),
    ],
)
def test_log_probabilities_are_planned_where_they_are_measured(
    evaluate: dict[str, Any], objective: str, tokens: int
) -> None:
    chosen = config(objective=objective)
    chosen = chosen.model_copy(update={"evaluate": EvaluateConfig.model_validate(evaluate)})
    assert evaluation_job(chosen, LLAMA_3_8B, A100).loss_length == tokens


def test_without_a_loss_more_rows_fit_in_an_evaluation() -> None:
    chosen = config()
    lean = EvaluateConfig(loss="skip", retained=RetainedConfig(general_text="none"), max_new_tokens=1)
    with_loss, without = (
        chosen.model_copy(update={"evaluate": lean.model_copy(update={"loss": loss})}) for loss in ("measure", "skip")
    )
    target = replace(A100, memory_bytes=evaluation_memory(with_evaluation_rows(without, 1), LLAMA_3_8B, A100).total)
    assert fits_evaluation(without, LLAMA_3_8B, target)
    assert not fits_evaluation(with_loss, LLAMA_3_8B, target)

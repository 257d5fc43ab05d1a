"""Steps, hours and dollars, worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support.plan_inputs import GPU_TYPES, LLAMA_2_7B

from configs.schema import FineTuneConfig
from tasks.plan.hardware.target import gpu_target
from tasks.plan.sizing import training_job
from tasks.plan.time.duration import RowFacts, estimate_duration, training_steps
from tasks.plan.time.step_time import estimate_step_time

H100 = GPU_TYPES["H100-SXM"]


def config(tokenize: dict[str, Any] | None = None, **train: Any) -> FineTuneConfig:
    return FineTuneConfig.model_validate(
        {
            "model": {"name": "a/b"},
            "data": {"sources": [{"path": "rows.jsonl"}]},
            "tokenize": {"max_length": 1000, **(tokenize or {})},
            "train": {"batch_size": 16, "micro_batch_size": 4, **train},
        }
    )


@pytest.mark.parametrize(
    ("subject", "facts", "steps"),
    [
        (config(max_steps=7), RowFacts(), 7),
        (config(), RowFacts(), None),
        # 100 rows / 16, rounded up
        (config(), RowFacts(rows=100), 7),
        (config(epochs=3), RowFacts(rows=160), 30),
        (config(epochs=0.01), RowFacts(rows=160), 1),
        # ten rows of 100 tokens fill a packed row: 160 / 10 / 16
        (config({"packing": "best_fit"}), RowFacts(rows=160, mean_tokens=100), 1),
        (config({"packing": "best_fit"}), RowFacts(rows=1600, mean_tokens=100), 10),
        (config({"packing": "best_fit"}), RowFacts(rows=1600), None),
        # the last batch of each epoch is not full: two steps an epoch
        (config(epochs=2), RowFacts(rows=17), 4),
        # a batch counts answers, and each of 80 prompts has 4
        (config(objective="rloo"), RowFacts(rows=80), 20),
        # 83 prompts are 20 batches of 4 and 3 that are left out; each batch is trained twice
        (config(objective="grpo", policy={"num_iterations": 2}), RowFacts(rows=83), 40),
    ],
)
def test_steps_follow_from_rows_epochs_and_packing(subject: FineTuneConfig, facts: RowFacts, steps: int | None) -> None:
    assert training_steps(subject, facts) == steps


def test_cost_is_hours_times_price_times_gpus() -> None:
    subject = config(processes_per_node=4, max_steps=36)
    job = training_job(subject, LLAMA_2_7B, gpu_target(H100))
    found = estimate_duration(subject, job, replace(H100, price_per_hour=10.0), RowFacts())
    seconds = estimate_step_time(job, H100).total
    assert found.step_seconds == seconds
    assert found.hours == pytest.approx(seconds / 100)
    assert found.price_per_hour == 40.0
    assert found.cost == pytest.approx(40 * seconds / 100)


def test_the_time_of_a_step_is_that_of_rows_of_mean_length() -> None:
    subject = config(max_steps=1)
    job = training_job(subject, LLAMA_2_7B, gpu_target(H100))
    unpacked = estimate_duration(subject, job, H100, RowFacts(mean_tokens=100))
    assert unpacked.step_seconds == estimate_step_time(replace(job, length=100), H100).total
    packed = config({"packing": "best_fit"}, max_steps=1)
    assert (
        estimate_duration(packed, job, H100, RowFacts(mean_tokens=100)).step_seconds
        == estimate_step_time(job, H100).total
    )


def test_pairs_cost_two_sequences_and_the_reference() -> None:
    subject = config(max_steps=1)
    job = training_job(subject, LLAMA_2_7B, gpu_target(H100))
    sft = estimate_duration(subject, job, H100, RowFacts()).step_seconds
    assert sft is not None
    dpo = estimate_duration(
        config(objective="dpo", max_steps=1), replace(job, objective="dpo"), H100, RowFacts()
    ).step_seconds
    assert dpo == pytest.approx(8 / 3 * sft)


@pytest.mark.parametrize(("loss", "factor"), [("kto", 2.0), ("apo_zero_unpaired", 4 / 3)])
def test_only_ktos_own_loss_passes_another_rows_answer_too(loss: str, factor: float) -> None:
    sft = config(max_steps=1)
    job = training_job(sft, LLAMA_2_7B, gpu_target(H100))
    once = estimate_duration(sft, job, H100, RowFacts()).step_seconds
    kto = config(objective="kto", kto={"loss": loss}, max_steps=1)
    assert once is not None
    seconds = estimate_duration(kto, replace(job, objective="kto"), H100, RowFacts()).step_seconds
    assert seconds == pytest.approx(factor * once)


@pytest.mark.parametrize("objective", ["rloo", "grpo"])
def test_generated_answers_have_no_estimate_of_time(objective: str) -> None:
    subject = config(objective=objective, max_steps=5)
    found = estimate_duration(subject, training_job(subject, LLAMA_2_7B, gpu_target(H100)), H100, RowFacts())
    assert (found.steps, found.step_seconds, found.hours, found.cost) == (5, None, None, None)


def test_without_bfloat16_the_arithmetic_is_that_of_float32() -> None:
    subject = config(max_steps=1)
    t4 = GPU_TYPES["T4"]
    job = training_job(subject, LLAMA_2_7B, gpu_target(t4))
    assert job.precision == "float32"
    seconds = estimate_duration(subject, job, t4, RowFacts()).step_seconds
    assert seconds == estimate_step_time(job, replace(t4, peak_flops=8.1e12)).total
    assert estimate_duration(subject, job, replace(t4, peak_float32_flops=None), RowFacts()).step_seconds is None


def test_a_type_without_a_price_has_hours_and_no_cost() -> None:
    subject = config(max_steps=5)
    job = training_job(subject, LLAMA_2_7B, gpu_target(H100))
    found = estimate_duration(subject, job, replace(H100, price_per_hour=None), RowFacts())
    assert found.hours is not None and found.cost is None
    assert estimate_duration(subject, job, None, RowFacts()).hours is None

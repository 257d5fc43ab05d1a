"""Estimates how long training takes on GPUs, and what it costs: steps x seconds per step x price of the GPUs.

`tasks.plan.time.step_time` gives the seconds of an sft step. An objective with several forward passes per row, or with
a reference model, takes a multiple of that (`ObjectiveRules.step_cost`). The time in which rloo and grpo generate
answers is not estimated, nor is training on a CPU; for these the plan gives no hours.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from configs.effective.batches import compares_rows
from configs.effective.training import optimizer_steps
from configs.objectives import OBJECTIVES
from configs.schema import FineTuneConfig
from configs.schema.train import TrainConfig
from configs.wire_plan import Expectation
from tasks.plan.hardware.gpus import GpuType
from tasks.plan.memory.jobs import TrainingJob
from tasks.plan.memory.states import compute_bytes
from tasks.plan.time.step_time import estimate_step_time

# if KTO compares rows: both models run forward over another row's answer, a third of forward and backward each
_COMPARED_ROWS_COST = 2 / 3
CHARACTERS_PER_TOKEN = 4.0
"""An assumption, for English text and vocabularies of 32,000 to 150,000 tokens."""


@dataclass(frozen=True)
class RowFacts:
    """What is known about the training rows before any is tokenized; None if unknown."""

    rows: float | None = None
    mean_tokens: float | None = None
    how: str = "the number of rows is not known before they are read"


def training_steps(config: FineTuneConfig, facts: RowFacts) -> int | None:
    """Return the approximate number of optimizer steps, or None if the number of rows is not known."""
    if config.train.max_steps is not None:
        return config.train.max_steps
    if facts.rows is None:
        return None
    rows: float = facts.rows
    if config.tokenize.packing != "none":
        if facts.mean_tokens is None or config.tokenize.max_length is None:
            return None
        rows *= min(1.0, facts.mean_tokens / config.tokenize.max_length)
    return optimizer_steps(config.train, round(rows))


def step_seconds(train: TrainConfig, job: TrainingJob, gpu: GpuType) -> float | None:
    """Return the seconds of an optimizer step; None if it generates answers, or the GPU's speed is not known."""
    step_cost = OBJECTIVES[job.objective].step_cost
    if compute_bytes(job) == 4:
        if gpu.peak_float32_flops is None:
            return None
        gpu = replace(gpu, peak_flops=gpu.peak_float32_flops)
    if step_cost is None:
        return None
    return (step_cost + _COMPARED_ROWS_COST * compares_rows(train)) * estimate_step_time(job, gpu).total


def with_mean_length(config: FineTuneConfig, job: TrainingJob, facts: RowFacts) -> TrainingJob:
    """Return the job with the mean row length, on which time depends; packed rows keep the longest length."""
    if facts.mean_tokens is None or config.tokenize.packing != "none":
        return job
    return replace(job, length=max(1, min(job.length, round(facts.mean_tokens))))


def estimate_duration(config: FineTuneConfig, job: TrainingJob, gpu: GpuType | None, facts: RowFacts) -> Expectation:
    """Return the time and cost of training; `job` is the memory plan's, whose rows have the longest length."""
    steps = training_steps(config, facts)
    timed_job = with_mean_length(config, job, facts)
    seconds = None if gpu is None else step_seconds(config.train, timed_job, gpu)
    price = None if gpu is None or gpu.price_per_hour is None else gpu.price_per_hour * job.num_gpus
    hours = None if seconds is None or steps is None else steps * seconds / 3600
    return Expectation(
        step_seconds=seconds,
        steps=steps,
        hours=hours,
        tokens_per_second=None if seconds is None else timed_job.step_tokens / seconds,
        price_per_hour=price,
        cost=None if hours is None or price is None else hours * price,
    )

"""The plan of one training, from its config and the model's shape: where it fits, what it asks for, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from configs.schema import FineTuneConfig
from configs.wire_plan import GpuFit, MemoryUse, StagePlan
from tasks.plan.alternatives import Search
from tasks.plan.hardware.gpus import GpuType, find_gpu, gpu_types
from tasks.plan.hardware.target import Target, gpu_target
from tasks.plan.machines import cluster_of, machines, stored
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.sizing import (
    evaluation_memory,
    fits_evaluation,
    fits_training,
    longest_rows,
    smallest_target,
    training_job,
    training_memory,
    with_evaluation,
    with_micro_batch,
    with_train,
)
from tasks.plan.time.duration import RowFacts, estimate_duration

_GB = 10**9


@dataclass(frozen=True)
class Subject:
    """What is planned: one training of `shape`. `local` is this machine, where training runs on it.

    `model_bytes` is the size of the weight files, 0 where it is not known.
    """

    name: str
    config: FineTuneConfig
    shape: ModelShape
    local: Target | None
    facts: RowFacts = field(default_factory=RowFacts)
    model_bytes: int = 0


def plan_stage(subject: Subject) -> tuple[StagePlan, FineTuneConfig]:
    """Return the plan, and the config with what the user left open settled: micro-batch, memory, disk.

    Raises:
        ConfigError: the config names a GPU type that the table does not have.
    """
    types = list(gpu_types(subject.config.plan.gpu_types).values())
    target = _target(subject, types)
    trained = with_micro_batch(subject.config, subject.shape, target)
    config = with_evaluation(trained, subject.shape, target)
    job = training_job(config, subject.shape, target)
    training = training_memory(job, target)
    evaluation = evaluation_memory(config, subject.shape, target)
    kept = stored(config.train, job, subject.model_bytes, target.device)
    asked = machines(config.train, job, target, kept)
    fits = fits_training(config, subject.shape, target) and fits_evaluation(config, subject.shape, target)
    plan = StagePlan(
        name=subject.name,
        objective=config.train.objective,
        method=config.train.method,
        trainable_parameters=job.trained_parameters,
        batch_size=config.train.batch_size,
        micro_batch_size=config.train.micro_batch,
        accumulation=job.accumulation,
        evaluation_rows=config.evaluate.rows_per_pass,
        max_length=longest_rows(config, subject.shape),
        memory=[training, evaluation],
        machines=asked,
        expectation=estimate_duration(config, job, target.gpu, subject.facts),
        fits=fits,
        alternatives=[] if fits else Search(trained, subject.shape, target, types, subject.facts).nearest(),
        gpus=[_fit(subject, gpu) for gpu in types] if subject.local is None else [],
    )
    return plan, with_train(config, cluster=cluster_of(config.train, asked))


def _target(subject: Subject, types: Sequence[GpuType]) -> Target:
    if subject.local is not None:
        return subject.local
    named = subject.config.train.cluster.gpu
    if named:
        return gpu_target(find_gpu(named, {gpu.name: gpu for gpu in types}))
    return smallest_target(subject.config, subject.shape, types)


def _fit(subject: Subject, gpu: GpuType) -> GpuFit:
    """Return how the config would do on one GPU type, with the micro-batch that fits there."""
    target = gpu_target(gpu)
    config = with_evaluation(with_micro_batch(subject.config, subject.shape, target), subject.shape, target)
    job = training_job(config, subject.shape, target)
    fits = fits_training(config, subject.shape, target) and fits_evaluation(config, subject.shape, target)
    needed = max(training_memory(job, target).total, evaluation_memory(config, subject.shape, target).total)
    expected = estimate_duration(config, job, gpu, subject.facts)
    return GpuFit(
        gpu=gpu.name,
        memory_bytes=round(gpu.memory_bytes),
        needed_bytes=needed,
        fits=fits,
        micro_batch_size=config.train.micro_batch if fits else None,
        step_seconds=expected.step_seconds if fits else None,
        hours=expected.hours if fits else None,
        cost=expected.cost if fits else None,
    )


def misfit(stage: StagePlan, is_tried: bool = False) -> str:
    """Return why a stage does not fit, and the nearest configs that would, in three lines; with `is_tried`, as the
    config says to try all the same, in two."""
    asked = stage.machines
    processes = asked.processes if asked.gpus == 0 else 1
    use = max(stage.memory, key=lambda each: each.total * (processes if each.moment == "training" else 1))
    times = processes if use.moment == "training" else 1
    unit = "GPU" if asked.gpus else "process"
    needs = f"{use.moment} needs {_gb(use.total)} GB of each {unit}"
    needs += f", {_gb(use.total * times)} GB in {times} processes" if times > 1 else ""
    if use.moment == "training":
        rows = f"micro-batch of {stage.micro_batch_size} x {stage.max_length:,} tokens"
    else:
        rows = f"the whole model on one {unit}, {stage.evaluation_rows} x {stage.max_length:,} tokens"
    first = f"{stage.name}: {needs} ({largest_parts(use)}; {rows}), and {asked.gpu} has {_gb(asked.memory_bytes)} GB"
    ways = " | ".join(", ".join(each.changes) for each in stage.alternatives)
    fix = f"it would fit with {ways}" if ways else _no_way(use, asked.memory_bytes)
    return f"{first}\n{fix}" + ("" if is_tried else "\nto try all the same, set plan.if_too_large=warn")


def _no_way(use: MemoryUse, memory_bytes: int) -> str:
    if use.moment == "evaluation" and use.weights > memory_bytes:
        return (
            "the evaluation is not divided among GPUs: the model must fit one of them in 16 bits; take a smaller model"
        )
    return "no config near it fits; take a smaller model, or shorter rows"


def _gb(size: int) -> str:
    return f"{size / _GB:,.0f}" if size >= 100 * _GB else f"{size / _GB:.3g}"


def largest_parts(use: MemoryUse) -> str:
    """Return the three largest parts of what is used, in GB."""
    names = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
    parts = sorted(((getattr(use, name), name) for name in names), reverse=True)[:3]
    return ", ".join(f"{name} {_gb(size)}" for size, name in parts if size)

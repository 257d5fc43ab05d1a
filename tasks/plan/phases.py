"""Plans one training from its config and the model's shape: where it fits, which machines it needs, what it costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from configs.schema import FineTuneConfig
from configs.wire_plan import GpuFit, MemoryUse, PhasePlan
from tasks.plan.alternatives import Search
from tasks.plan.hardware.gpus import GpuType, find_gpu, gpu_types
from tasks.plan.hardware.target import Target, gpu_target
from tasks.plan.machines import plan_machines, settled_cluster, stored_bytes
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
class Training:
    """One training to plan, of a model of `shape`. `local` is this machine if training runs on it.

    `model_bytes` is the size of the weight files, 0 if not known.
    """

    name: str
    config: FineTuneConfig
    shape: ModelShape
    local: Target | None
    facts: RowFacts = field(default_factory=RowFacts)
    model_bytes: int = 0


def plan_phase(training: Training) -> tuple[PhasePlan, FineTuneConfig]:
    """Return the plan, and the config with the settings that the user left open: micro-batch, memory, disk.

    Raises:
        ConfigError: the config names a GPU type that is not in the table.
    """
    types = list(gpu_types(training.config.plan.gpu_types).values())
    target = _target(training, types)
    with_rows = with_micro_batch(training.config, training.shape, target)
    config = with_evaluation(with_rows, training.shape, target)
    job = training_job(config, training.shape, target)
    memory = [training_memory(job, target), evaluation_memory(config, training.shape, target)]
    stored = stored_bytes(config.train, job, training.model_bytes, target.device)
    machines = plan_machines(config.train, job, target, stored)
    fits = fits_training(config, training.shape, target) and fits_evaluation(config, training.shape, target)
    plan = PhasePlan(
        name=training.name,
        objective=config.train.objective,
        method=config.train.method,
        trainable_parameters=job.trained_parameters,
        batch_size=config.train.batch_size,
        micro_batch_size=config.train.micro_batch,
        accumulation=job.accumulation,
        evaluation_rows=config.evaluate.rows_per_pass,
        evaluation_gpus=config.evaluate.gpus if target.is_gpu else 1,
        evaluation_load_in=config.evaluate.load_in,
        max_length=longest_rows(config, training.shape),
        memory=memory,
        machines=machines,
        expectation=estimate_duration(config, job, target.gpu, training.facts),
        fits=fits,
        alternatives=[] if fits else Search(with_rows, training.shape, target, types, training.facts).nearest(),
        gpus=[_gpu_fit(training, gpu) for gpu in types] if training.local is None else [],
    )
    return plan, with_train(config, cluster=settled_cluster(config.train, machines))


def _target(training: Training, types: Sequence[GpuType]) -> Target:
    if training.local is not None:
        return training.local
    gpu_name = training.config.train.cluster.gpu
    if gpu_name:
        return gpu_target(find_gpu(gpu_name, {gpu.name: gpu for gpu in types}))
    return smallest_target(training.config, training.shape, types)


def _gpu_fit(training: Training, gpu: GpuType) -> GpuFit:
    """Return memory, time and cost on one GPU type, with the micro-batch that fits there."""
    target = gpu_target(gpu)
    config = with_evaluation(with_micro_batch(training.config, training.shape, target), training.shape, target)
    job = training_job(config, training.shape, target)
    fits = fits_training(config, training.shape, target) and fits_evaluation(config, training.shape, target)
    needed = max(training_memory(job, target).total, evaluation_memory(config, training.shape, target).total)
    expected = estimate_duration(config, job, gpu, training.facts)
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


def misfit_message(plan: PhasePlan, only_warns: bool = False) -> str:
    """Return why a training does not fit, the nearest configs that would, and how to run it anyway, in three lines.

    With `only_warns` the config runs it anyway, and the third line is left out.
    """
    machines = plan.machines
    processes = machines.processes if machines.gpus == 0 else 1
    use = max(plan.memory, key=lambda use: use.total * (processes if use.moment == "training" else 1))
    times = processes if use.moment == "training" else 1
    unit = "GPU" if machines.gpus else "process"
    needs = f"{use.moment} needs {_gb(use.total)} GB per {unit}"
    needs += f", {_gb(use.total * times)} GB in {times} processes" if times > 1 else ""
    if use.moment == "training":
        rows = f"micro-batch of {plan.micro_batch_size} x {plan.max_length:,} tokens"
    else:
        rows = f"{plan.scored_on}, {plan.evaluation_rows} x {plan.max_length:,} tokens"
    limit = f"{machines.gpu} has {_gb(machines.memory_bytes)} GB"
    found = f"{plan.name}: {needs} ({largest_parts(use)}; {rows}), and {limit}"
    ways = " | ".join(", ".join(alternative.changes) for alternative in plan.alternatives)
    fix = f"it would fit with {ways}" if ways else _fix_without_alternatives(use, machines.memory_bytes)
    return f"{found}\n{fix}" + ("" if only_warns else "\nto run it anyway, set plan.if_too_large=warn")


def _fix_without_alternatives(use: MemoryUse, memory_bytes: int) -> str:
    if use.moment == "evaluation" and use.weights > memory_bytes:
        return "neither evaluate.gpus nor evaluate.load_in=4bit makes room for the weights; take a smaller model"
    return "no similar config fits; take a smaller model, or shorter rows"


def _gb(size: int) -> str:
    return f"{size / _GB:,.0f}" if size >= 100 * _GB else f"{size / _GB:.3g}"


def largest_parts(use: MemoryUse) -> str:
    """Return the three largest items of memory, in GB."""
    names = ("weights", "gradients", "optimizer", "activations", "logits", "buffers")
    parts = sorted(((getattr(use, name), name) for name in names), reverse=True)[:3]
    return ", ".join(f"{name} {_gb(size)}" for size, name in parts if size)

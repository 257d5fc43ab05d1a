"""Lists the assumptions behind a plan's numbers that are not measured here, and estimates its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from configs.effective.numbers import computes_in_16_bits
from configs.objectives import ONLINE
from configs.schema import FineTuneConfig
from configs.schema.train import QUANTIZED_METHODS, TrainConfig
from configs.wire_plan import PhasePlan
from tasks.plan.checks.preflight import Answer
from tasks.plan.checks.questions import first_rows_of
from tasks.plan.hardware.gpus import gpu_types
from tasks.plan.hardware.target import Target, gpu_target
from tasks.plan.machines import HOST_SPARE, PROCESS_BYTES, SHARED_GIB_PER_PROCESS
from tasks.plan.shapes.shape import ModelShape
from tasks.plan.sizing import CPU_PROCESS_BYTES, FRAGMENTATION, GPU_CONTEXT_BYTES
from tasks.plan.time.duration import CHARACTERS_PER_TOKEN, RowFacts
from tasks.plan.time.step_time import LINK_EFFICIENCY

_GIB = 2**30


def row_facts_of(config: FineTuneConfig, first_rows: Sequence[Any]) -> RowFacts:
    """Return the approximate number and length of training rows; `first_rows` are the `FirstRows` of all sources."""
    weighted = []
    has_test = any(source.role == "test" for source in config.data.sources) or any(
        source_rows.held_out for source_rows in first_rows
    )
    for source_rows in first_rows:
        section, _, number = source_rows.where.removeprefix("data.").partition("[")
        if section != "sources":
            continue
        source = config.data.sources[int(number.rstrip("]"))]
        if source.role != "test":
            weighted.append((source_rows, source.weight))
    counts = [source_rows.rows * weight for source_rows, weight in weighted if source_rows.rows is not None]
    if not weighted or len(counts) < len(weighted) or sum(counts) == 0:
        return RowFacts()
    characters = [rows.mean_characters for rows, _ in weighted if rows.mean_characters is not None]
    rows = sum(counts) * (1.0 if has_test else 1 - config.data.test_fraction)
    if len(characters) < len(weighted):
        return RowFacts(rows=rows, how=f"about {rows:,.0f} training rows, assumed to have the longest length")
    mean = sum(count * size for count, size in zip(counts, characters, strict=True)) / sum(counts)
    tokens = mean / CHARACTERS_PER_TOKEN
    how = (
        f"about {rows:,.0f} training rows of {tokens:,.0f} tokens, by the first rows of each source and "
        f"{CHARACTERS_PER_TOKEN:g} characters per token"
    )
    return RowFacts(rows=rows, mean_tokens=tokens, how=how)


def assumptions(
    phases: Mapping[str, FineTuneConfig],
    plans: Sequence[PhasePlan],
    shape: ModelShape | None,
    local: Target | None,
    answers: Sequence[Answer],
) -> list[str]:
    """Return the assumptions behind the plans, one line each; none without a plan."""
    if shape is None or not plans:
        return []
    found = [
        "memory is for micro-batches whose rows all have the longest length; shorter rows take less",
        *shape.notes,
    ]
    for plan, (name, config) in zip(plans, phases.items(), strict=False):
        prefix = f"{name}: " if len(phases) > 1 else ""
        of_rows = [answer for answer in answers if answer.check.name.startswith(f"{prefix}first rows")]
        facts = row_facts_of(config, first_rows_of(of_rows))
        if plan.expectation.step_seconds is not None or facts.rows is not None:
            found.append(prefix + facts.how)
        if config.train.method in QUANTIZED_METHODS and any(not linear.is_quantized for linear in shape.linear_maps):
            left = shape.quantizable.left_in_words
            found.append(f"{prefix}bitsandbytes leaves {left} of the linear weights in 16 bits")
        if config.train.fewest_nodes < config.train.most_nodes:
            found.append(
                f"{prefix}train.nodes={config.train.nodes}: planned for the lower bound, {config.train.fewest_nodes}"
            )
        found += [prefix + line for line in of_measures(config.train)]
        if plan.objective in ONLINE:
            found.append(f"{prefix}the time to generate answers is not estimated, so there is no cost")
    last = plans[-1]
    on_hardware = _gpu_assumptions(list(phases.values())[-1], last, local) if last.machines.gpus else _cpu_assumptions()
    return found + on_hardware


def of_measures(train: TrainConfig) -> list[str]:
    """Return what a plan leaves out of a training that measures generated answers; nothing without measures."""
    watch = train.watch
    if not watch.measures:
        return []
    return [
        f"the time and memory to answer {watch.measured_rows} held-out rows at each of {watch.evaluations} "
        "evaluations (train.watch.measures) are not estimated"
    ]


def _cpu_assumptions() -> list[str]:
    return [
        f"a process takes {CPU_PROCESS_BYTES / 1e9:g} GB in addition to its tensors; all memory of the machine is free",
        "time on a CPU is not estimated",
    ]


def _gpu_assumptions(config: FineTuneConfig, plan: PhasePlan, local: Target | None) -> list[str]:
    found = [
        f"the allocator loses {FRAGMENTATION:.0%}; CUDA's context and libraries take {GPU_CONTEXT_BYTES / 1e9:g} GB",
        f"host memory: {PROCESS_BYTES / _GIB:g} GiB and the whole model per process, and {HOST_SPARE - 1:.0%} spare; "
        f"{SHARED_GIB_PER_PROCESS} GiB of /dev/shm per process",
    ]
    if local is None and not config.train.cluster.gpu:
        choice = "the smallest type of the table that fits" if plan.fits else "the largest type of the table"
        found.append(f"no GPU type is named: planned for {plan.machines.gpu}, {choice}")
    if local is None:
        asked = "one GPU" if plan.evaluation_gpus == 1 else f"{plan.evaluation_gpus} GPUs"
        found.append(f"the evaluation runs on {plan.machines.gpu} too; its pod asks for {asked} of any type")
    if plan.evaluation_gpus > 1:
        found.append("a divided model is as transformers' device_map=auto divides it, with layers of one size")
    gpu = gpu_types(config.plan.gpu_types).get(plan.machines.gpu)
    if gpu is None:
        return [*found, f"{plan.machines.gpu} is not in the table of GPU types: time and cost are not estimated"]
    if not gpu.has_bfloat16:
        found.append(f"{gpu.name} does not compute in bfloat16: float32 is used instead, with twice the bytes")
    has_16_bits = computes_in_16_bits(config.train, config.model, gpu_target(gpu).device)
    speed = gpu.peak_flops if has_16_bits else gpu.peak_float32_flops
    if speed is None:
        return [*found, f"the speed of {gpu.name} in float32 is not in the table: time and cost are not estimated"]
    found.append(
        f"{gpu.name}: {gpu.compute_utilization:.0%} of {speed / 1e12:g} TFLOP/s, links at "
        f"{LINK_EFFICIENCY:.0%} ({gpu.source}); loading, evaluations, checkpoints "
        "and kernel launches, which slow small models, take no time"
    )
    if gpu.price_per_hour is not None:
        found.append(f"${gpu.price_per_hour:g} an hour for each {gpu.name} ({gpu.price_source}; on demand)")
    return found

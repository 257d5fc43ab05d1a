"""What a plan's numbers rest on that nobody has measured here, and what its rows are taken for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from configs.effective.numbers import computes_in_16_bits
from configs.objectives import ONLINE
from configs.schema import FineTuneConfig
from configs.schema.train import QUANTIZED_METHODS
from configs.wire_plan import StagePlan
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
    """Return about how many training rows there are, of how many tokens; `first_rows` are of all sources."""
    trained = []
    has_test = any(source.role == "test" for source in config.data.sources)
    for each in first_rows:
        section, _, number = each.where.removeprefix("data.").partition("[")
        if section != "sources":
            continue
        source = config.data.sources[int(number.rstrip("]"))]
        if source.role != "test":
            trained.append((each, source.weight))
    counts = [each.rows * weight for each, weight in trained if each.rows is not None]
    if not trained or len(counts) < len(trained) or sum(counts) == 0:
        return RowFacts()
    characters = [each.mean_characters for each, _ in trained if each.mean_characters is not None]
    rows = sum(counts) * (1.0 if has_test else 1 - config.data.test_fraction)
    if len(characters) < len(trained):
        return RowFacts(rows=rows, how=f"about {rows:,.0f} training rows, taken to have the longest length")
    mean = sum(count * size for count, size in zip(counts, characters, strict=True)) / sum(counts)
    tokens = mean / CHARACTERS_PER_TOKEN
    how = (
        f"about {rows:,.0f} training rows of {tokens:,.0f} tokens, by the first rows of each source and "
        f"{CHARACTERS_PER_TOKEN:g} characters a token"
    )
    return RowFacts(rows=rows, mean_tokens=tokens, how=how)


def assumptions(
    stages: Mapping[str, FineTuneConfig],
    plans: Sequence[StagePlan],
    shape: ModelShape | None,
    local: Target | None,
    answers: Sequence[Answer],
) -> list[str]:
    """Return the assumptions behind the plans, one line each; nothing where there is no plan."""
    if shape is None or not plans:
        return []
    found = [
        "memory is that of a pass in which every row has the longest length; of shorter rows it is less",
        *shape.notes,
    ]
    for plan, (name, config) in zip(plans, stages.items(), strict=False):
        prefix = f"{name}: " if len(stages) > 1 else ""
        facts = row_facts_of(
            config, first_rows_of([each for each in answers if each.check.name.startswith(f"{prefix}first rows")])
        )
        if plan.expectation.step_seconds is not None or facts.rows is not None:
            found.append(prefix + facts.how)
        if config.train.method in QUANTIZED_METHODS and any(not each.is_quantized for each in shape.linear_maps):
            found.append(f"{prefix}bitsandbytes leaves experts that are one parameter as they are: 16 bits a number")
        if config.train.fewest_nodes < config.train.most_nodes:
            found.append(f"{prefix}of train.nodes={config.train.nodes} the fewest machines are planned for")
        if plan.objective in ONLINE:
            found.append(f"{prefix}the time that answers take to be generated is not estimated, and so no cost")
    last = plans[-1]
    return found + (_of_gpus(list(stages.values())[-1], last, local) if last.machines.gpus else _of_cpu())


def _of_cpu() -> list[str]:
    return [
        f"a process takes {CPU_PROCESS_BYTES / 1e9:g} GB beside its tensors; all memory of the machine is free for it",
        "time on a CPU is not estimated",
    ]


def _of_gpus(config: FineTuneConfig, plan: StagePlan, local: Target | None) -> list[str]:
    found = [
        f"the allocator loses {FRAGMENTATION:.0%}; CUDA's context and libraries take {GPU_CONTEXT_BYTES / 1e9:g} GB",
        f"host memory: {PROCESS_BYTES / _GIB:g} GiB and the whole model for each process, {HOST_SPARE - 1:.0%} to "
        f"spare; {SHARED_GIB_PER_PROCESS} GiB of /dev/shm each",
    ]
    if local is None and not config.train.cluster.gpu:
        will = "the smallest of the table that will do" if plan.fits else "the largest of the table"
        found.append(f"no GPU type is named: planned for {plan.machines.gpu}, {will}")
    if local is None:
        found.append(f"the evaluation runs on {plan.machines.gpu} too; its pod asks for one GPU of any type")
    gpu = gpu_types(config.plan.gpu_types).get(plan.machines.gpu)
    if gpu is None:
        return [*found, f"{plan.machines.gpu} is not in the table of GPU types: no time and no cost"]
    if not gpu.has_bfloat16:
        found.append(f"{gpu.name} does not compute in bfloat16: float32 takes its place, with twice the bytes")
    has_16_bits = computes_in_16_bits(config.train, config.model, gpu_target(gpu).device)
    speed = gpu.peak_flops if has_16_bits else gpu.peak_float32_flops
    if speed is None:
        return [*found, f"the speed of {gpu.name} in float32 is not in the table: no time and no cost"]
    found.append(
        f"{gpu.name}: {gpu.compute_utilization:.0%} of {speed / 1e12:g} TFLOP/s, links at "
        f"{LINK_EFFICIENCY:.0%} ({gpu.source}); loading, evaluations, checkpoints "
        "and the start of kernels, which small models wait for, take no time"
    )
    if gpu.price_per_hour is not None:
        found.append(f"${gpu.price_per_hour:g} an hour for each {gpu.name} ({gpu.price_source}; on demand)")
    return found

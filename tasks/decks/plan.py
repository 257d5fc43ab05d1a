"""A plan as people read it: in a Deck, and as text in the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from configs.wire import TrainReport
from configs.wire_plan import Expectation, MemoryUse, Plan, StagePlan
from tasks.decks import html

GB = 10**9
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "fragmentation", "context")
_WIDTH = 110
Rows = list[list[str]]


def render_plan(plan: Plan, name: str) -> str:
    """Return the plan as HTML: what fails first, then what it needs, costs and rests on."""
    failed = [check for check in plan.checks if check.result == "failed"]
    parts = [html.heading(f"Plan: {name}", 1)]
    for check in failed:
        parts.append(html.paragraph(f"{check.name}: {check.found} {check.fix}", "bad"))
    for stage in plan.stages:
        parts.append(html.paragraph(verdict(stage), "good" if stage.fits else "bad"))
        if stage.alternatives:
            parts += [html.heading("What would fit"), html.table(alternative_rows(stage), _ALTERNATIVES)]
        parts += [html.heading(f"Memory of one {_unit(stage)}, in GB"), html.table(memory_rows(stage), _MEMORY)]
        for use in stage.memory:
            sizes = [(part, getattr(use, part) / GB) for part in PARTS]
            parts.append(
                html.stacked(f"{use.moment}, fullest in {use.fullest}", sizes, stage.machines.memory_bytes / GB)
            )
        parts += [html.heading(f"What {stage.name} asks for"), html.table(facts(plan, stage), ["", ""])]
        if stage.gpus:
            parts += [html.heading("The same on other GPU types"), html.table(gpu_rows(stage), _GPUS)]
    parts += [html.heading("Checks"), html.table([_check(each) for each in plan.checks], _CHECKS)]
    if plan.assumptions:
        parts.append(html.heading("Assumptions"))
        parts += [html.paragraph(each, "note") for each in plan.assumptions]
    return "".join(parts)


def render_planned(plan: Plan, reports: Sequence[TrainReport]) -> str:
    """Return what was planned of each training beside what it took; nothing where nothing was planned."""
    if not plan.stages:
        return ""
    rows = [planned_row(stage, report) for stage, report in zip(plan.stages, reports, strict=False)]
    return html.heading("Planned, and what it took") + html.table(rows, _PLANNED)


def planned_row(stage: StagePlan, report: TrainReport) -> list[str]:
    """Return one training: steps, seconds of a step, and GB of a GPU, as planned and as they were.

    Seconds are of the whole training, its evaluations and checkpoints included, which the plan counts none of. Memory
    is what the allocator held: the plan's allowances are left out.
    """
    expected, use = stage.expectation, stage.memory[0]
    tensors = use.total - use.fragmentation - use.context
    unknown = "not estimated"
    return [
        stage.name,
        f"{expected.steps:,}" if expected.steps is not None else unknown,
        f"{report.steps:,}",
        f"{expected.step_seconds:.3g}" if expected.step_seconds is not None else unknown,
        f"{report.seconds / max(1, report.steps):.3g}",
        f"{_gb(tensors)}",
        _gb(report.peak_memory_bytes) if report.peak_memory_bytes is not None else "not measured",
    ]


_PLANNED = ["training", "steps planned", "taken", "s a step planned", "taken", "GB of tensors planned", "at the peak"]
_MEMORY = ["", *PARTS, "total", "of"]
_GPUS = ["GPU type", "GB", "needs", "fits", "rows a pass", "s a step", "time", "cost"]
_ALTERNATIVES = ["change", "GB of each GPU", "on", "trains the same", "cost"]
_CHECKS = ["check", "result", "found", "fix"]


def _check(check: object) -> list[str]:
    return [str(getattr(check, name)) for name in ("name", "result", "found", "fix")]


def _unit(stage: StagePlan) -> str:
    return "GPU" if stage.machines.gpus else "process"


def _share(part: int, whole: int) -> str:
    """Return a share of the parameters that a reader can see, such as 0.52 %."""
    return f"{100 * part / whole:.3g} %"


def verdict(stage: StagePlan) -> str:
    """Return in one line whether the stage fits, and where."""
    asked, use = stage.machines, max(stage.memory, key=lambda each: each.total)
    where = f"{asked.gpu} of {asked.memory_bytes / GB:.3g} GB"
    word = "fits" if stage.fits else "does not fit"
    return f"{stage.name} {word}: {use.moment} takes {use.total / GB:.3g} GB of each {_unit(stage)}, on {where}"


def facts(plan: Plan, stage: StagePlan) -> Rows:
    """Return lines of (what, value): model, batch, machines, time."""
    asked, rows = stage.machines, []
    if plan.model is not None:
        model = plan.model
        experts = (
            f" ({model.active_parameters:,} of them for a token, {model.experts} experts)" if model.experts else ""
        )
        tied = ", tied embeddings" if model.is_tied else ""
        rows.append(["model", f"{model.name} ({model.family}), {model.parameters:,} parameters{experts}{tied}"])
        rows.append(["license", f"{model.license}; shape from {model.source}"])
        share = _share(stage.trainable_parameters, model.parameters)
        rows.append(
            ["trains", f"{stage.objective}, {stage.method}: {stage.trainable_parameters:,} parameters ({share})"]
        )
    processes = asked.nodes * asked.processes
    passes, workers = _count(stage.accumulation, "pass", "passes"), _count(processes, "process", "processes")
    each = f"{stage.micro_batch_size} a pass x {passes} x {workers}"
    rows.append(["batch", f"{stage.batch_size} rows of up to {stage.max_length:,} tokens: {each}"])
    gpus = f"{asked.gpus} x {asked.gpu}" if asked.gpus else "CPU"
    machines = _count(asked.nodes, "machine", "machines")
    rows.append(
        [
            "machines",
            f"{machines} with {gpus}, {asked.cpus} cores, {asked.memory_gib} GiB memory, "
            f"{asked.shared_memory_gib} GiB /dev/shm, {asked.disk_gib} GiB disk each",
        ]
    )
    rows.append(["time", time_and_cost(stage.expectation)])
    return rows


def time_and_cost(expected: Expectation) -> str:
    """Return steps, hours and dollars, as far as they are known."""
    if expected.step_seconds is None:
        steps = f"about {expected.steps:,} steps; " if expected.steps else ""
        return f"{steps}not estimated"
    seconds = f"{expected.step_seconds:.3g} s a step, {expected.tokens_per_second:,.0f} tokens/s"
    if expected.hours is None:
        rate = f", ${expected.price_per_hour:,.2f} an hour" if expected.price_per_hour is not None else ""
        return f"{seconds}{rate}; the number of steps is not known yet"
    cost = f", {dollars(expected.cost)}" if expected.cost is not None else ""
    return f"about {duration(expected.hours)}{cost}: {expected.steps:,} steps, {seconds}"


def duration(hours: float) -> str:
    """Return hours as people say them: minutes below one hour."""
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{round(hours * 60)} minutes" if hours >= 1.5 / 60 else "a minute or less"


def dollars(cost: float) -> str:
    """Return a cost to the cent."""
    return f"${cost:,.2f}" if cost >= 0.01 else "under $0.01"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def memory_rows(stage: StagePlan) -> Rows:
    """Return a row for each moment: parts, total and what there is, in GB."""
    rows = []
    for use in stage.memory:
        parts = [_gb(getattr(use, part)) for part in PARTS]
        rows.append([use.moment, *parts, _gb(use.total), _gb(stage.machines.memory_bytes)])
    return rows


def _gb(size: int) -> str:
    if 0 < size < GB / 10:
        return f"{size / GB:.3f}"
    return f"{size / GB:.2f}" if size < 100 * GB else f"{size / GB:,.0f}"


def gpu_rows(stage: StagePlan) -> Rows:
    """Return a row for each GPU type of the table."""
    return [
        [
            each.gpu,
            f"{each.memory_bytes / GB:.3g}",
            _gb(each.needed_bytes),
            "yes" if each.fits else "no",
            str(each.micro_batch_size or ""),
            "" if each.step_seconds is None else f"{each.step_seconds:.3g}",
            "" if each.hours is None else duration(each.hours),
            "" if each.cost is None else dollars(each.cost),
        ]
        for each in stage.gpus
    ]


def alternative_rows(stage: StagePlan) -> Rows:
    """Return a row for each config that would fit."""
    return [
        [
            ", ".join(each.changes),
            _gb(each.bytes_per_gpu),
            f"{each.gpus} x {each.gpu}" if each.gpus else each.gpu,
            "yes" if each.keeps_result else "no",
            "" if each.relative_cost is None else f"x {each.relative_cost:.2f}",
        ]
        for each in stage.alternatives
    ]


def plan_text(plan: Plan, name: str) -> str:
    """Return the plan for a terminal: checks, then each stage, then what it rests on."""
    blocks = [f"plan: {name}"]
    for stage in plan.stages:
        blocks.append(f"{stage.name}\n" + aligned(facts(plan, stage), indent="  "))
        header = [f"GB of each {_unit(stage)}", *PARTS[:-2], "spare", "total", "of"]
        blocks.append(aligned([header, *(_short(use, stage) for use in stage.memory)]))
        if stage.gpus:
            blocks.append(aligned([_GPUS, *gpu_rows(stage)]))
        blocks.append(verdict(stage))
        if stage.alternatives:
            blocks.append("what would fit:\n" + aligned([_ALTERNATIVES, *alternative_rows(stage)], indent="  "))
    if plan.assumptions:
        lines = [textwrap.fill(f"- {each}", _WIDTH, subsequent_indent="  ") for each in plan.assumptions]
        blocks.append("\n".join(["assumed, and not measured here:", *lines]))
    return "\n\n".join(blocks)


def _short(use: MemoryUse, stage: StagePlan) -> list[str]:
    """Return a moment with fragmentation and context as one."""
    parts = [_gb(getattr(use, part)) for part in PARTS[:-2]]
    return [use.moment, *parts, _gb(use.fragmentation + use.context), _gb(use.total), _gb(stage.machines.memory_bytes)]


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Return rows as columns of text."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(indent + line for line in lines)

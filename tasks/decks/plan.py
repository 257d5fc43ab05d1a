"""A plan for people: as a Deck, and as text for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from configs.printable import joined_lines, one_line, table_cell
from configs.wire import TrainReport
from configs.wire_plan import Check, Expectation, MemoryUse, PhasePlan, Plan
from tasks.decks import html

GB = 10**9
PARTS = ("weights", "gradients", "optimizer", "activations", "logits", "buffers", "fragmentation", "context")
_WIDTH = 110
Rows = list[list[str]]


def render_plan(plan: Plan, name: str) -> str:
    """Return the plan as HTML: failed checks first, then memory, machines and cost, then assumptions and all checks."""
    failed = [check for check in plan.checks if check.result == "failed"]
    parts = [html.heading(f"Plan: {name}{', which cannot run' if failed else ''}", 1)]
    for check in failed:
        clauses = [f"{check.name}: {_one_line(check.found)}", _one_line(check.fix)]
        parts.append(html.paragraph("; ".join(filter(None, clauses)), "bad"))
    for phase in plan.stages:
        moments = [use.moment for use in phase.memory]
        parts.append(html.paragraph(verdict(phase), "good" if phase.fits else "bad"))
        if phase.alternatives:
            parts += [html.heading("What would fit"), html.table(alternative_rows(phase), _ALTERNATIVES)]
        parts += [
            html.heading(f"Memory of one {_unit(phase)}, in GB"),
            html.table(memory_rows(phase), ["part", *moments]),
        ]
        for use in phase.memory:
            sizes = [(part, getattr(use, part) / GB) for part in PARTS]
            label = f"{use.moment}, at its peak in {use.fullest}"
            parts.append(html.stacked(label, sizes, phase.machines.memory_bytes / GB))
        parts += [html.heading(f"What {phase.name} asks for"), html.table(facts(plan, phase), ["what", "how much"])]
        if phase.gpus:
            parts += [html.heading("The same on other GPU types"), html.table(gpu_rows(phase), _GPUS)]
    if plan.assumptions:
        parts.append(html.heading("Assumed, and not measured here"))
        parts += [html.paragraph(assumption, "note") for assumption in plan.assumptions]
    parts += [html.heading("Checks"), html.table([_check_row(check) for check in _failed_first(plan.checks)], _CHECKS)]
    return "".join(parts)


def render_planned(plan: Plan, reports: Sequence[TrainReport]) -> str:
    """Return a table of what was planned for each training and what it took; empty where nothing was planned."""
    if not plan.stages:
        return ""
    rows = [planned_row(phase, report) for phase, report in zip(plan.stages, reports, strict=False)]
    return html.heading("Planned, and what it took") + html.table(rows, _PLANNED)


def planned_row(phase: PhasePlan, report: TrainReport) -> list[str]:
    """Return a training's steps, seconds per step, and GB per GPU, each as planned and as measured.

    Measured seconds are those of the whole training over its steps: they include evaluations and checkpoints, which the
    plan leaves out. Measured memory is what the allocator held, so the plan's allowances are left out.
    """
    expected, use = phase.expectation, phase.memory[0]
    tensors = use.total - use.fragmentation - use.context
    unknown = "not estimated"
    return [
        phase.name,
        f"{expected.steps:,}" if expected.steps is not None else unknown,
        f"{report.steps:,}",
        f"{expected.step_seconds:.3g}" if expected.step_seconds is not None else unknown,
        f"{report.seconds / max(1, report.steps):.3g}",
        _gb(tensors),
        _gb(report.peak_memory_bytes) if report.peak_memory_bytes is not None else "not measured",
    ]


_PLANNED = ["training", "steps planned", "taken", "s per step planned", "taken", "GB of tensors planned", "at the peak"]
_GPUS = ["GPU type", "GB", "needs", "fits", "rows per pass", "s per step", "time", "cost"]
_ALTERNATIVES = ["change", "GB each", "on", "trains the same", "s per step", "cost"]
_CHECKS = ["check", "result", "found", "fix"]


def _failed_first(checks: Sequence[Check]) -> list[Check]:
    return sorted(checks, key=lambda check: check.result != "failed")


def _check_row(check: Check) -> list[str]:
    # the column before says it
    found = _one_line(check.found).removeprefix(f"{check.result}: ")
    return [check.name, check.result, found, "" if check.result == "ok" else _one_line(check.fix)]


def _one_line(text: str) -> str:
    return joined_lines(text)


def _unit(phase: PhasePlan) -> str:
    return "GPU" if phase.machines.gpus else "process"


def _share(part: int, whole: int) -> str:
    """Return a percentage with three digits, such as 0.52 %."""
    return f"{100 * part / whole:.3g} %"


def verdict(phase: PhasePlan) -> str:
    """Return in one line whether the training fits, and how much it needs where."""
    asked, use = phase.machines, max(phase.memory, key=lambda moment: moment.total)
    where = f"{asked.gpu} of {short_gb(asked.memory_bytes)} GB"
    answer = "fits" if phase.fits else "does not fit"
    takes = f"{short_gb(use.total)} GB per {_unit(phase)}"
    if asked.gpus == 0 and asked.processes > 1 and use.moment == "training":
        takes += f", {short_gb(use.total * asked.processes)} GB in {asked.processes} processes"
    return f"{phase.name} {answer}: {use.moment} takes {takes}, on {where}"


def short_gb(size: int) -> str:
    """Return bytes in GB, with three digits."""
    return f"{size / GB:,.0f}" if size >= 100 * GB else f"{size / GB:.3g}"


def facts(plan: Plan, phase: PhasePlan) -> Rows:
    """Return lines of (what, value): model, batch, evaluation, machines, time."""
    asked, rows = phase.machines, []
    if plan.model is not None:
        model = plan.model
        experts = (
            f" ({model.active_parameters:,} of them for a token, {model.experts} experts)" if model.experts else ""
        )
        tied = ", tied embeddings" if model.is_tied else ""
        rows.append(["model", f"{model.name} ({model.family}), {model.parameters:,} parameters{experts}{tied}"])
        rows.append(["license", f"{model.license}; shape from {model.source}"])
        share = _share(phase.trainable_parameters, model.parameters)
        rows.append(
            ["trains", f"{phase.objective}, {phase.method}: {phase.trainable_parameters:,} parameters ({share})"]
        )
    processes = asked.nodes * asked.processes
    passes = _count(phase.accumulation, "forward pass", "forward passes")
    factors = f"micro-batch of {phase.micro_batch_size} x {passes} x {_count(processes, 'process', 'processes')}"
    rows.append(["batch", f"{phase.batch_size} rows of up to {phase.max_length:,} tokens: {factors}"])
    gpus = f"{asked.gpus} x {asked.gpu}" if asked.gpus else "CPU"
    machines = _count(asked.nodes, "machine", "machines")
    rows_per_pass = _count(phase.evaluation_rows, "row", "rows")
    rows.append(["evaluation", f"{rows_per_pass} per forward pass, {phase.scored_on}"])
    asks = (
        f", {asked.cpus} cores, {asked.memory_gib} GiB memory, {asked.shared_memory_gib} GiB /dev/shm, "
        f"{asked.disk_gib} GiB disk each"
    )
    # without other GPU types to compare, the plan is for machines that are there: it asks for nothing
    rows.append(["machines", f"{machines} with {gpus}{asks if phase.gpus else ''}"])
    took = time_and_cost(phase.expectation)
    rows.append(["time", took if phase.fits else f"if it fitted, {took}"])
    return rows


def time_and_cost(expected: Expectation) -> str:
    """Return hours, dollars and steps, as far as they are known."""
    if expected.step_seconds is None:
        steps = f"about {_count(expected.steps, 'step', 'steps')}; " if expected.steps else ""
        return f"{steps}not estimated"
    seconds = f"{expected.step_seconds:.3g} s per step, {expected.tokens_per_second:,.0f} tokens/s"
    if expected.hours is None:
        rate = f", ${expected.price_per_hour:,.2f} an hour" if expected.price_per_hour is not None else ""
        return f"{seconds}{rate}; the number of steps is not known yet"
    cost = f", {dollars(expected.cost)}" if expected.cost is not None else ""
    steps = _count(expected.steps or 0, "step", "steps")
    return f"about {duration(expected.hours)}{cost} for training steps alone: {steps}, {seconds}"


def duration(hours: float) -> str:
    """Return hours in words; below one hour as minutes."""
    if hours >= 1:
        return f"{hours:,.1f} hours"
    return f"{round(hours * 60)} minutes" if hours >= 1.5 / 60 else "a minute or less"


def price(expected: Expectation) -> str:
    """Return the cost of training, or of 1,000 steps where the number of steps is not known; empty without a price."""
    if expected.cost is not None:
        return dollars(expected.cost)
    if expected.price_per_hour is None or expected.step_seconds is None:
        return ""
    return f"{dollars(expected.price_per_hour * expected.step_seconds / 3.6)} for 1,000 steps"


def dollars(cost: float) -> str:
    """Return a cost to the cent."""
    return f"${cost:,.2f}" if cost >= 0.01 else "under $0.01"


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"


def memory_rows(phase: PhasePlan) -> Rows:
    """Return a row for each part of the memory, their total, and the memory there is, in GB; a column for each moment.

    Eleven columns would be wider than the console's dialog.
    """
    rows = [[part, *(_gb(getattr(use, part)) for use in phase.memory)] for part in (*PARTS, "total")]
    return [*rows, ["available", *(_gb(phase.machines.memory_bytes) for _ in phase.memory)]]


def _gb(size: int) -> str:
    if 0 < size < GB / 10:
        return f"{size / GB:.3f}"
    return f"{size / GB:.2f}" if size < 100 * GB else f"{size / GB:,.0f}"


def gpu_rows(phase: PhasePlan) -> Rows:
    """Return a row for each GPU type of the table."""
    return [
        [
            fit.gpu,
            f"{fit.memory_bytes / GB:.3g}",
            _gb(fit.needed_bytes),
            "yes" if fit.fits else "no",
            str(fit.micro_batch_size or ""),
            "" if fit.step_seconds is None else f"{fit.step_seconds:.3g}",
            "" if fit.hours is None else duration(fit.hours),
            "" if fit.cost is None else dollars(fit.cost),
        ]
        for fit in phase.gpus
    ]


def alternative_rows(phase: PhasePlan) -> Rows:
    """Return a row for each config that would fit."""
    return [
        [
            ", ".join(offer.changes),
            _gb(offer.bytes_per_gpu),
            f"{offer.gpus} x {offer.gpu}" if offer.gpus else offer.gpu,
            "yes" if offer.keeps_result else "no",
            "" if offer.expectation.step_seconds is None else f"{offer.expectation.step_seconds:.3g}",
            price(offer.expectation),
        ]
        for offer in phase.alternatives
    ]


def plan_text(plan: Plan, name: str) -> str:
    """Return the plan for a terminal, without its checks: each training, then the assumptions."""
    blocks = [f"plan: {one_line(name)}"]
    for phase in plan.stages:
        blocks.append(f"{one_line(phase.name)}\n" + aligned(facts(plan, phase), indent="  "))
        header = [f"GB per {_unit(phase)}", *PARTS[:-2], "spare", "total", "of"]
        table = aligned([header, *(_short_memory_row(use, phase) for use in phase.memory)])
        moments = "; ".join(f"{use.moment} in {use.fullest}" for use in phase.memory)
        blocks.append(table + "\n" + textwrap.fill(f"at the peak: {moments}", _WIDTH))
        if phase.gpus:
            blocks.append(aligned([_GPUS, *gpu_rows(phase)]))
        blocks.append(one_line(verdict(phase)))
        if phase.alternatives:
            blocks.append("what would fit:\n" + aligned([_ALTERNATIVES, *alternative_rows(phase)], indent="  "))
    if plan.assumptions:
        lines = [textwrap.fill(f"- {one_line(text)}", _WIDTH, subsequent_indent="  ") for text in plan.assumptions]
        blocks.append("\n".join(["assumed, and not measured here:", *lines]))
    return "\n\n".join(blocks)


def _short_memory_row(use: MemoryUse, phase: PhasePlan) -> list[str]:
    """Return a row of `memory_rows` with fragmentation and context as one part."""
    parts = [_gb(getattr(use, part)) for part in PARTS[:-2]]
    return [use.moment, *parts, _gb(use.fragmentation + use.context), _gb(use.total), _gb(phase.machines.memory_bytes)]


def aligned(rows: Sequence[Sequence[str]], indent: str = "") -> str:
    """Return rows as text with aligned columns; a cell is one line."""
    rows = [[one_line(table_cell(cell)) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(indent + line for line in lines)

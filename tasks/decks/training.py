"""The training Deck: findings, curves, what was trained, and how it ran."""

from __future__ import annotations

from collections.abc import Sequence

from configs.measures import OF_ANSWERS
from configs.objectives import ONLINE, WHOLE_TEXT, rules_of
from configs.wire import Series, TrainReport
from tasks.decks import charts, html

KEPT_BY = "weights kept by"
"""Name of the choice whose value is the measure of generated answers that decides which weights are kept."""
_Lines = dict[str, tuple[Sequence[int], Sequence[float]]]
_LOSS_OF_POLICY_GRADIENT = (
    "The loss of a policy gradient stays around 0 and does not show how good the model is; the reward does."
)


def render_training(report: TrainReport) -> str:
    """Return the section on training."""
    rates = {"rate": ([point.step for point in report.curve], [point.learning_rate for point in report.curve])}
    choices = [(choice.name, choice.value, choice.reason) for choice in report.choices]
    return "".join(
        [
            html.heading("Training"),
            *(html.paragraph(finding, "warn") for finding in report.findings),
            "" if report.objective in ONLINE else _loss_chart(report),
            *_further_charts(report),
            *_answer_charts(report),
            charts.lines(rates, "rate", "Learning rate", "learning rate", is_small=True),
            html.paragraph(_LOSS_OF_POLICY_GRADIENT, "note") if report.objective in ONLINE else "",
            html.table(_facts(report), ["training", "value"]),
            html.heading("How it ran", 3) + html.table(choices, ["choice", "value", "why"]) if choices else "",
        ]
    )


def _loss_chart(report: TrainReport) -> str:
    training: _Lines = {"training": ([point.step for point in report.curve], [point.loss for point in report.curve])}
    unit = "nats per trained token" if report.objective in WHOLE_TEXT else "loss"
    both = training | _line(report.series, "eval_loss", "held-out")
    return charts.lines(both, "loss", "Loss", unit, marked_step=report.best_step)


def _further_charts(report: TrainReport) -> list[str]:
    drawn = []
    for chart in rules_of(report.objective).charts:
        training = _line(report.series, chart.series, "training")
        both = training | _line(report.series, f"eval_{chart.series}", "held-out")
        if both:
            drawn.append(charts.lines(both, chart.identifier, chart.title, chart.unit, report.best_step, is_small=True))
    return drawn


def _answer_charts(report: TrainReport) -> list[str]:
    """Return a chart of each measure of generated answers.

    They are the held-out series that training rows do not have, and that are not the objective's own. The trainers'
    further names have a slash, which no measure has.
    """
    drawn = []
    names = {series.name for series in report.series}
    own = {"loss", *(chart.series for chart in rules_of(report.objective).charts)}
    for name in sorted(names):
        key = name.removeprefix("eval_")
        if name == key or "/" in key or key in names | own:
            continue
        line = _line(report.series, name, "held-out")
        measure = OF_ANSWERS.get(key)
        title = f"{measure.heading if measure else key.replace('_', ' ').capitalize()}, in generated answers"
        unit = (measure.chart_unit if measure else None) or "value"
        if line:
            drawn.append(charts.lines(line, f"measure-{key}", title, unit, report.best_step, is_small=True))
    return drawn


def _line(series: Sequence[Series], name: str, label: str) -> _Lines:
    """Return the series called `name` under the label of its line; empty where it was not logged."""
    found = next((logged for logged in series if logged.name == name and logged.values), None)
    return {label: (found.steps, found.values)} if found else {}


def _facts(report: TrainReport) -> list[tuple[str, str]]:
    kept = "of the last step"
    if report.best_step is not None:
        held_out = {series.name: dict(zip(series.steps, series.values, strict=True)) for series in report.series}
        name = "eval_reward" if "eval_reward" in held_out else "eval_loss"
        words = "highest held-out reward" if name == "eval_reward" else "lowest held-out loss"
        for choice in report.choices:
            if choice.name == KEPT_BY:
                side = "lowest" if choice.reason.startswith("the lowest") else "highest"
                name, words = f"eval_{choice.value}", f"{side} held-out {choice.value}"
        value = held_out.get(name, {}).get(report.best_step)
        kept = f"of step {report.best_step:,}, {words}" + ("" if value is None else f": {value:.4f}")
    return [
        ("objective and method", f"{report.objective}, {report.method}"),
        ("steps", f"{report.steps:,} ({report.epochs:.2f} epochs)"),
        ("weights kept", kept),
        (
            "answers per step" if report.objective in ONLINE else "rows per step",
            f"{report.batch_size:,}, over {report.world_size} process{'es' if report.world_size > 1 else ''}",
        ),
        ("peak learning rate", f"{report.learning_rate:g}"),
        ("parameters", f"{report.parameters:,}"),
        (
            "trained parameters",
            f"{report.trainable_parameters:,} ({report.trainable_parameters / max(1, report.parameters):.2%})",
        ),
        ("device and precision", f"{report.device}, {report.precision}"),
        ("time", f"{report.seconds:.0f} s"),
    ]

"""The training Deck: loss and learning-rate curves, and what was trained how."""

from __future__ import annotations

from configs.wire import TrainReport
from tasks.decks import charts, html


def render_training(report: TrainReport) -> str:
    """Return the section on training."""
    steps = [point.step for point in report.curve]
    facts = [
        ("method", report.method),
        ("steps", f"{report.steps:,} ({report.epochs:.2f} epochs)"),
        (
            "rows per step",
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
    return "".join(
        [
            html.heading("Training"),
            charts.curve(steps, [p.loss for p in report.curve], "loss", "Training loss", "nats per completion token"),
            charts.curve(steps, [p.learning_rate for p in report.curve], "rate", "Learning rate", "learning rate"),
            html.table(facts, ["training", "value"]),
        ]
    )

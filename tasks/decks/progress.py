"""Decks of work in progress: training, and stages that count what they have done."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from pydantic import Field

from configs.wire import Evaluation, TrainReport, WireType
from tasks.decks import html
from tasks.decks.scores import score_header, score_rows
from tasks.decks.training import render_training
from tasks.models.pace import Count, duration


class LiveTraining(WireType):
    """A training in progress: its report so far, and how long it will take."""

    report: TrainReport
    max_steps: int = Field(description="Optimizer steps of the whole run.")
    tokens_per_second: float | None = Field(None, description="Over all processes, between the last two logged steps.")
    seconds_left: float | None = Field(None, description="Estimated from the pace so far.")
    stopped_by: str = Field("", description="The error that ended it; empty while it runs.")


def render_live_training(live: LiveTraining) -> str:
    """Return the section on training, with its progress at the top."""
    share = live.report.steps / max(1, live.max_steps)
    facts = [f"Step {live.report.steps:,} of {live.max_steps:,} ({share:.0%})"]
    if live.report.curve:
        facts.append(f"loss {live.report.curve[-1].loss:.4f}")
    if live.tokens_per_second is not None:
        facts.append(f"{live.tokens_per_second:,.0f} tokens/s")
    if live.seconds_left is not None and not live.stopped_by:
        facts.append(f"{duration(live.seconds_left)} left")
    return "".join(
        [
            *(html.paragraph(line, "warn") for line in _error_lines(live)),
            html.paragraph(", ".join(facts), "warn"),
            _as_of_now(),
            render_training(live.report),
        ]
    )


def render_counts(stage: str, counts: Sequence[Count], activity: str | None) -> str:
    """Return what a stage has counted, what it is doing, and its last answers.

    `activity` says what it is doing; None once it has ended.
    """
    rows = [
        (
            count.what,
            f"{count.num_done:,} of {count.total:,} {count.unit}",
            count.speed,
            "done" if count.num_done >= count.total else _left(count),
            ", ".join(f"{name} {value}" for name, value in count.facts.items()),
        )
        for count in counts
    ]
    samples = [sample for count in counts for sample in count.samples]
    return "".join(
        [
            html.heading(stage if activity is None else f"{stage}: under way"),
            html.paragraph(activity, "warn") if activity else "",
            "" if activity is None else _as_of_now(),
            html.table(rows, ["what", "done", "speed", "time left", "so far"]),
            html.heading("The last answers", 3) + html.cards([_card(*sample) for sample in samples]) if samples else "",
        ]
    )


def render_evaluation(label: str, evaluation: Evaluation, num_samples: int) -> str:
    """Return the scores of one model on the held-out rows and on each further evaluation set, with some answers."""
    sets = {label: evaluation} | {
        f"{label} on {other.name}": Evaluation(scores=other.scores, predictions=[]) for other in evaluation.others
    }
    cards = [_card(row.prompt, row.expected, row.answer, row.reasoning) for row in evaluation.predictions[:num_samples]]
    return "".join(
        [
            html.heading(f"Held-out scores of {label}"),
            html.table(score_rows(sets), score_header(sets)),
            html.heading("Answers", 3) + html.cards(cards) if cards else "",
        ]
    )


def _error_lines(live: LiveTraining) -> list[str]:
    return f"Training ended: {live.stopped_by}".splitlines() if live.stopped_by else []


def _left(count: Count) -> str:
    return "-" if count.seconds_left is None else duration(count.seconds_left)


def _card(prompt: str, expected: str, answer: str, reasoning: str = "") -> list[tuple[str, str, str]]:
    is_right = answer.strip() == expected.strip()
    shown = ("answer", answer or "(nothing)", "good" if is_right else "")
    thoughts = [("reasoning", reasoning, "note")] if reasoning else []
    return [("prompt", prompt, ""), ("expected", expected, ""), *thoughts, shown]


def _as_of_now() -> str:
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    return html.paragraph(f"As of {now}; open the Deck again to update it.", "note")

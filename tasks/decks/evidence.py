"""The verdict of the gate and the evidence behind it, for Decks, the report and the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from configs.printable import one_line
from configs.wire import HELD_OUT
from configs.wire_evidence import ArtifactVerdict, Difference, RuleOutcome, Verdict
from tasks.decks import html
from tasks.decks.forest import MOST_PLOTTED, forest_text, render_forest

_HEADER = [
    "measure and models",
    "scores",
    "difference (95 % interval)",
    "p, test",
    "rows: better / worse / equal",
    "least that shows",
]
_TEXT_HEADER = ("measure", "models", "before", "after", "difference (95 % interval)", "p", "rows")
_TEXT_WIDTH = 120
_MEASURE_CHARACTERS = 26
_METHODS = (
    "Intervals are 95 %, from a paired bootstrap over rows (over groups of rows, where rows share a group). The last "
    "column is the smallest difference that so many rows show with 80 % power, in a two-sided test at 5 %."
)


def render_verdict(verdict: Verdict) -> str:
    """Return the headline, coloured by what it says, what to be careful about, and each rule of the gate.

    The colour is green where the tuned model keeps its required rules, red where it is worse, and grey where the two
    models are not told apart or nothing tells which is better.
    """
    parts = [html.boxed(verdict.headline, _colour(verdict))]
    parts += [html.paragraph(sentence, "note") for sentence in verdict.sentences]
    for artifact in verdict.artifacts:
        parts.append(html.heading(f"{artifact.model}: {_decision(artifact, 'held back by the gate')}", 3))
        rows = [(outcome.rule, outcome.reason, _result(outcome)) for outcome in artifact.outcomes]
        parts.append(html.table(rows, ["rule", "found", "result"]))
    return "".join(parts)


def render_evidence(verdict: Verdict) -> str:
    """Return the section on differences; empty where nothing was compared."""
    return html.heading("Differences") + render_differences(verdict.differences) if verdict.differences else ""


def render_differences(differences: Sequence[Difference]) -> str:
    """Return a forest plot of differences, and a table of all of them; empty where there are none."""
    if not differences:
        return ""
    return "".join(
        [
            render_forest(differences),
            html.paragraph(_left_out(differences), "note") if len(differences) > MOST_PLOTTED else "",
            html.table([_row(found) for found in differences], _HEADER, is_dense=True),
            html.paragraph(_METHODS, "note"),
        ]
    )


def verdict_text(verdict: Verdict) -> str:
    """Return headline, rules and differences as text for the terminal, at most 120 characters wide.

    The plot shows the differences on held-out rows. No line break comes from a name or a reason.
    """
    lines = _wrapped(verdict.headline)
    for sentence in verdict.sentences:
        lines += _wrapped(sentence, "  ")
    for artifact in verdict.artifacts:
        lines += _wrapped(f"{artifact.model}: {_decision(artifact, 'held back')}")
        for outcome in artifact.outcomes:
            lines += _wrapped(outcome.rule, f"  {_mark(outcome)} ")
            lines += _wrapped(outcome.reason, "      ")
    plot = forest_text([found for found in verdict.differences if found.set == HELD_OUT])
    return "\n".join([*lines, *([plot] if plot else []), *_table_lines(verdict.differences[:MOST_PLOTTED])]) + (
        f"\n{_left_out(verdict.differences)}" if len(verdict.differences) > MOST_PLOTTED else ""
    )


def _wrapped(text: str, indent: str = "") -> list[str]:
    """Return a text as lines of at most 120 characters, behind a first indent and as many blanks."""
    return textwrap.wrap(
        one_line(text),
        _TEXT_WIDTH,
        initial_indent=indent,
        subsequent_indent=" " * len(indent),
        break_on_hyphens=False,
    )


def _table_lines(differences: Sequence[Difference]) -> list[str]:
    """Return an aligned table of differences; none without any."""
    if not differences:
        return []
    table = [_TEXT_HEADER, *map(_text_row, differences)]
    return aligned_lines(table, 2)


def aligned_lines(table: Sequence[Sequence[str]], num_left: int) -> list[str]:
    """Return the lines of a table for the terminal; its first `num_left` columns are aligned at the left."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if column < num_left else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]


def _text_row(found: Difference) -> tuple[str, ...]:
    measure, on = found.shown, _on(found)
    named = one_line(f"{measure.title}{on}")
    change = measure.difference(found.difference).removesuffix(" points")
    interval = "unbounded" if found.low is None or found.high is None else found.interval_words
    return (
        named if len(named) <= _MEASURE_CHARACTERS else f"{named[: _MEASURE_CHARACTERS - 1]}…",
        one_line(f"{found.model} vs {found.versus}"),
        measure.short_number.format(found.before),
        measure.short_number.format(found.after),
        f"{change} ({interval})",
        found.p_words,
        f"{found.rows:,}",
    )


def _left_out(differences: Sequence[Difference]) -> str:
    return f"{MOST_PLOTTED} of {len(differences):,} differences are shown here, those of held-out rows first."


def _on(found: Difference) -> str:
    return "" if found.set == HELD_OUT else f" on {found.set}"


def _decision(artifact: ArtifactVerdict, held_back: str) -> str:
    """Return whether a model may be published, and how many of the required rules it broke."""
    if artifact.promote:
        return "may be published"
    required = sum(outcome.required for outcome in artifact.outcomes)
    rules = f"{required} required rule{'s' if required != 1 else ''}"
    return f"{held_back}, {len(artifact.reasons)} of {rules} broken" if artifact.reasons else held_back


def _colour(verdict: Verdict) -> str:
    if verdict.is_better:
        return "good"
    return "bad" if verdict.headline.startswith("Worse") else "unclear"


def _result(outcome: RuleOutcome) -> str:
    return "passed" if outcome.passed else "failed" if outcome.required else "warning"


def _mark(outcome: RuleOutcome) -> str:
    return "ok  " if outcome.passed else "FAIL" if outcome.required else "warn"


def _row(found: Difference) -> tuple[str, ...]:
    measure = found.shown
    direction = " (lower is better)" if found.lower_is_better else ""
    smallest = "-" if found.detectable is None else measure.difference(found.detectable)
    groups = f" in {found.groups:,} groups" if found.groups else ""
    return (
        f"{measure.title}{_on(found)}{direction}: {found.model} vs {found.versus}",
        f"{measure.number.format(found.before)} → {measure.number.format(found.after)}",
        _signed(f"{measure.difference(found.difference)} ({found.interval_words})"),
        ", ".join(filter(None, [found.p_words, found.test])),
        f"{found.rows:,}{groups}: {found.wins:,} / {found.losses:,} / {found.ties:,}",
        _signed(smallest) if smallest != "-" else smallest,
    )


def _signed(text: str) -> str:
    """Return numbers without plus signs and with a typographic minus, which no spreadsheet takes for a formula."""
    return text.replace("+", "").replace("-", "\u2212")

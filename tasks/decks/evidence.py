"""The verdict of the gate and the evidence behind it, for Decks, the report and the terminal."""

from __future__ import annotations

from configs.printable import one_line
from configs.wire import HELD_OUT
from configs.wire_evidence import Difference, RuleOutcome, Verdict
from tasks.decks import html
from tasks.decks.forest import forest_text, render_forest

_HEADER = ["measure", "models", "before", "after", "difference (95 % interval)", "p", "rows", "better / worse / equal"]
_TEXT_WIDTH = 116


def render_verdict(verdict: Verdict) -> str:
    """Return the headline, coloured by what it says, what to be careful about, and each rule of the gate."""
    parts = [html.boxed(verdict.headline, _colour(verdict))]
    parts += [html.paragraph(sentence, "note") for sentence in verdict.sentences]
    for artifact in verdict.artifacts:
        title = f"{artifact.model}: {'may be published' if artifact.promote else 'held back by the gate'}"
        parts.append(html.heading(title, 3))
        rows = [(outcome.rule, outcome.reason, _result(outcome)) for outcome in artifact.outcomes]
        parts.append(html.table(rows, ["rule", "found", "result"]))
    return "".join(parts)


def render_evidence(verdict: Verdict) -> str:
    """Return a forest plot of the differences and their table; empty where nothing was compared."""
    if not verdict.differences:
        return ""
    intervals = (
        "Intervals are 95 %, from a paired bootstrap over rows (over groups of rows, where rows share a group); "
        "p-values from McNemar's exact test where a row is right or wrong, else from a randomization test."
    )
    return "".join(
        [
            html.heading("Differences"),
            render_forest(verdict.differences),
            html.table([_row(found) for found in verdict.differences], _HEADER),
            html.paragraph(intervals, "note"),
        ]
    )


def verdict_text(verdict: Verdict) -> str:
    """Return the rules and the differences as text for the terminal; the headline is its first line."""
    lines = [verdict.headline, *(f"  {sentence}" for sentence in verdict.sentences)]
    for artifact in verdict.artifacts:
        lines.append(f"{artifact.model}: {'may be published' if artifact.promote else 'held back'}")
        lines += [f"  {_mark(outcome)} {outcome.rule}\n      {outcome.reason}" for outcome in artifact.outcomes]
    main = [found for found in verdict.differences if found.set == HELD_OUT]
    text = forest_text(main)
    # a name or a reason may hold what a terminal would obey
    cleaned = [one_line(line) if "\n" not in line else line for line in lines]
    return "\n".join([*cleaned, *([text] if text else [])])


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
    on = "" if found.set == HELD_OUT else f" on {found.set}"
    return (
        f"{measure.title}{on}" + (" (lower is better)" if found.lower_is_better else ""),
        f"{found.versus} -> {found.model}",
        measure.number.format(found.before),
        measure.number.format(found.after),
        _signed(f"{measure.difference(found.difference)} ({found.interval_words})"),
        found.p_words,
        f"{found.rows:,}" + (f" in {found.groups:,} groups" if found.groups else ""),
        f"{found.wins:,} / {found.losses:,} / {found.ties:,}",
    )


def _signed(text: str) -> str:
    """Return numbers without plus signs and with a typographic minus, which no spreadsheet takes for a formula."""
    return text.replace("+", "").replace("-", "\u2212")

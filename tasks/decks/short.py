"""Short Decks: of steps whose result is files, and of steps whose Deck is elsewhere."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.decks import html

_CACHED = "A step that Flyte took from its cache has no Deck in this run: its Deck is on the run that computed it."


def render_facts(title: str, facts: Sequence[tuple[str, object]]) -> str:
    """Return what a step has done as a table of (what, value)."""
    return html.heading(title) + html.table(facts, ["what", "value"])


def render_where(steps: Sequence[str]) -> str:
    """Return where the Decks of `steps` are, for the dynamic node that starts them.

    The console shows the steps that a dynamic node starts as nodes under it.
    """
    return (
        html.heading("The Decks of these steps are one level down")
        + html.paragraph("Open this node in the console, choose one of the steps under it, then Flyte Deck.")
        + html.table([(step,) for step in steps], ["step"])
        + html.paragraph(f"{_CACHED} The report at the end of this run repeats what it shows.", "note")
    )


def render_cached_note() -> str:
    """Return where the Decks of cached steps are, for the end of the report."""
    return html.paragraph(f"{_CACHED} This report repeats what it shows.", "note")

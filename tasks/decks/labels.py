"""The table of labels of a classification: how many of each were found, and how many answers were right."""

from __future__ import annotations

from typing import TYPE_CHECKING

from configs.printable import one_line
from tasks.decks import html

if TYPE_CHECKING:
    from tasks.measures.labels import LabelTable

_MOST_LABELS = 100
_LONGEST = 60
_HEADER = ["label", "rows", "answered", "precision", "recall", "F1"]


def render_labels(table: LabelTable) -> str:
    """Return a table with one line a label, the most frequent first, and what was answered beside the labels.

    `rows` are those that expect the label, `answered` those answered with it; precision is the share of the answered
    that expect it, a dash where there are none, recall the share of the expected that are answered with it. At most 100
    labels, with a note on the others. Empty without labels.
    """
    if not table.labels:
        return ""
    lines = [
        (
            _short(one.label),
            f"{one.rows:,}",
            f"{one.answered:,}",
            "-" if one.precision is None else f"{one.precision:.1%}",
            f"{one.recall:.1%}",
            f"{one.f1:.1%}",
        )
        for one in table.labels[:_MOST_LABELS]
    ]
    notes = []
    if table.other:
        answers, are = ("answer", "is") if table.other == 1 else ("answers", "are")
        notes.append(f"{table.other:,} {answers} {are} none of the labels.")
    if len(table.labels) > _MOST_LABELS:
        notes.append(f"{_MOST_LABELS} of {len(table.labels):,} labels, the most frequent ones.")
    return (
        html.heading("Labels", 3)
        + html.table(lines, _HEADER)
        + (html.paragraph(" ".join(notes), "note") if notes else "")
    )


def _short(label: str) -> str:
    shown = one_line(label)
    return shown if len(shown) <= _LONGEST else f"{shown[: _LONGEST - 1]}…"

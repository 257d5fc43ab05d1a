"""The data Deck: counts, samples and every failure case."""

from __future__ import annotations

from collections.abc import Sequence

from configs.wire import DataReport, FailureCase
from tasks.decks import html


def render_data(report: DataReport) -> str:
    """Return the section on the rows, escaped."""
    counts = [(count.source, count.format, count.read, count.kept, count.quarantined) for count in report.sources]
    return "".join(
        [
            html.heading("Data"),
            *(html.paragraph(f"Warning: {warning}", "warn") for warning in report.warnings),
            html.paragraph(
                f"{report.train_rows:,} rows to train on, {report.test_rows:,} held out, "
                f"{report.quarantined_rows:,} quarantined."
            ),
            html.table(counts, ["source", "format", "read", "kept", "quarantined"]),
            html.heading("Sample rows", 3),
            html.cards(
                [
                    [
                        ("row", s.row_id, "note"),
                        ("prompt", _shorten(s.prompt), ""),
                        ("completion", _shorten(s.completion), ""),
                    ]
                    for s in report.samples
                ]
            ),
            render_failures(report.failures) if report.failures else "",
        ]
    )


def render_failures(failures: Sequence[FailureCase]) -> str:
    """Return a table of all failure cases, with the offending values escaped."""
    rows = [(f.file, f.row, f.column, f.reason, _shorten(f.value)) for f in failures]
    return html.heading("Failure cases", 3) + html.table(rows, ["file", "row", "column", "reason", "value"])


def _shorten(text: str, limit: int = 600) -> str:
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters)"

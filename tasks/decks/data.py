"""The data Deck: counts, samples and every failure case."""

from __future__ import annotations

from collections.abc import Sequence

from configs.wire import DataReport, FailureCase
from tasks.decks import html

# a page of a million rows would not open
_SHOWN_FAILURES = 1000


def render_data(report: DataReport) -> str:
    """Return the section on the rows, escaped."""
    counts = [
        (count.source, count.format, count.read, count.kept, count.quarantined, count.deduplicated, count.weight)
        for count in report.sources
    ]
    checks = [(c.check, c.policy, c.rows, ", ".join(c.first_rows)) for c in report.checks]
    return "".join(
        [
            html.heading("Data"),
            *(html.paragraph(f"Warning: {warning}", "warn") for warning in report.warnings),
            html.paragraph(
                f"{report.train_rows:,} rows to train on, {report.test_rows:,} held out, "
                f"{report.quarantined_rows:,} quarantined, {report.deduplicated_rows:,} removed as duplicates."
            ),
            html.table(counts, ["source", "format", "read", "kept", "quarantined", "deduplicated", "weight"]),
            html.heading("Checks that found something", 3),
            html.table(checks, ["check", "policy", "rows", "such as"]),
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
    """Return a table of the failure cases, the first 1,000 of many, with the offending values escaped."""
    rows = [(f.file, f.row, f.column, f.check, f.reason, _shorten(f.value)) for f in failures[:_SHOWN_FAILURES]]
    more = len(failures) - len(rows)
    note = html.paragraph(f"and {more:,} more, in the quarantine table", "note") if more else ""
    return (
        html.heading("Rows set aside", 3)
        + note
        + html.table(rows, ["file", "row", "column", "check", "reason", "value"])
    )


def _shorten(text: str, limit: int = 600) -> str:
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters)"

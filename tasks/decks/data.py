"""The data Deck: counts, columns, checks, samples, and the first failure cases."""

from __future__ import annotations

from collections.abc import Sequence

from configs.wire import Balance, ColumnUse, DataReport, FailureCase, SourceCount
from tasks.decks import html


def render_data(report: DataReport) -> str:
    """Return the section on the rows: what became of them, what checks found, what they look like."""
    counts = [
        (_source(count), count.format, count.read, count.kept, count.quarantined, count.deduplicated)
        for count in report.sources
    ]
    checks = [(found.check, found.policy, found.rows, ", ".join(found.first_rows)) for found in report.checks]
    return "".join(
        [
            html.heading("Data"),
            *(html.paragraph(f"Warning: {warning}", "warn") for warning in report.warnings),
            html.paragraph(
                f"{report.train_rows:,} rows to train on, {report.test_rows:,} held out, "
                + (f"{report.evaluation_rows:,} for evaluation only, " if report.evaluation_rows else "")
                + f"{report.quarantined_rows:,} quarantined, {report.deduplicated_rows:,} removed as duplicates."
            ),
            html.table(counts, ["source", "format", "read", "kept", "quarantined", "deduplicated"]),
            *_columns(report.columns),
            html.heading("Checks that found something", 3),
            html.table(checks, ["check", "policy", "rows", "such as"]),
            *_balance(report.balance),
            html.heading("Sample rows", 3),
            html.cards(
                [
                    [
                        ("row", sample.row_id, "note"),
                        ("prompt", _shorten(sample.prompt), ""),
                        ("completion", _shorten(sample.completion), ""),
                    ]
                    for sample in report.samples
                ]
            ),
            render_failures(report.failures, report.failure_cases) if report.failures else "",
        ]
    )


def _source(count: SourceCount) -> str:
    """Return a source's name with its role and weight, where they are not the default: a column each is too wide."""
    role = [] if count.role == "auto" else [count.role]
    weight = [] if count.weight == 1 else [f"weight {count.weight:g}"]
    return f"{count.source} ({', '.join(role + weight)})" if role + weight else count.source


def _columns(columns: Sequence[ColumnUse]) -> list[str]:
    """Return a table of what became of each column, and of each key of the turns of conversations."""
    rows = [
        (
            use.source,
            use.name if use.place == "column" else f"{use.name} (in turns)",
            f"{use.rows:,} of {use.of:,}",
            use.use,
        )
        for use in columns
    ]
    if not rows:
        return []
    return [
        html.heading("Columns", 3),
        html.table(rows, ["source", "column or key of a turn", "rows that have it", "what became of it"]),
    ]


def _balance(balance: Balance) -> list[str]:
    """Return tables of languages, labels and answers; those without rows are left out."""
    tables = [
        (f"Languages of {balance.language_rows:,} rows looked at", "language", balance.languages),
        ("Labels", "label", balance.labels),
        ("Most frequent answers", "answer", balance.completions),
    ]
    parts = []
    for title, name, shares in tables:
        total = sum(share.rows for share in shares)
        if shares:
            rows = [(share.name, f"{share.rows:,}", f"{share.rows / total:.1%}") for share in shares]
            parts += [html.heading(title, 3), html.table(rows, [name, "rows", "share"])]
    return parts


def render_failures(failures: Sequence[FailureCase], number: int = 0, title: str = "Rows set aside") -> str:
    """Return a table of failure cases. `number` is how many there are in all; a note counts those not shown."""
    rows = [(case.file, case.row, case.column, case.check, case.reason, case.value) for case in failures]
    more = max(number, len(rows)) - len(rows)
    note = html.paragraph(f"and {more:,} more, in the quarantine table", "note") if more else ""
    return html.heading(title, 3) + note + html.table(rows, ["file", "row", "column", "check", "reason", "value"])


def _shorten(text: str, limit: int = 600) -> str:
    return text if len(text) <= limit else f"{text[:limit]} … ({len(text):,} characters)"

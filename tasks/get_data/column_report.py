"""Report what became of the columns of each source and of the splits of its files: for the report, and for the log."""

from __future__ import annotations

from itertools import groupby

from configs.schema import DataConfig
from configs.wire import ColumnUse, DataReport
from tasks.files.splits import held_out_warning, scored_training_warning
from tasks.get_data.all_rows import AllRows, source_index
from tasks.rows.formats import column_mapping
from tasks.rows.used_columns import MAX_NAMES, ColumnCounts, check_unread

_SHOWN_USES = 12


def used_columns(config: DataConfig, rows: AllRows, labels: list[str]) -> tuple[list[ColumnUse], list[str]]:
    """Return what became of the columns and keys of each source, and warnings about those that carry meaning.

    `labels` are the names of the sources, and then of the evaluation sets.

    Raises:
        DataError: some of them are not read, and `config.checks.unread_column` is `fail`.
    """
    uses, warnings = [], []
    for number, source in enumerate([*config.sources, *config.evaluation]):
        shards = [s.summary for s in rows.shards if source_index(config, s.summary) == number]
        first = shards[0]
        mapping = column_mapping(source)
        counts = ColumnCounts(first["format"], mapping, config.group_by, first["columns"], source.tools)
        for summary in shards:
            counts.add_counts(summary["used_columns"])
        where = f"data.{first['section']}[{first['number']}]"
        warnings.append(check_unread(where, labels[number], counts, config.checks.unread_column))
        if counts.has_more:
            warnings.append(f"{labels[number]} has more than {MAX_NAMES} columns and keys; the others are not listed")
        # two files of one name are two sources
        source_name = labels[number] if labels.count(labels[number]) == 1 else f"{labels[number]} ({where})"
        uses += [
            ColumnUse(
                source=source_name, place=item.place, name=item.name, rows=item.rows, of=counts.num_rows, use=item.use
            )
            for item in counts.found()
        ]
    return uses, [warning for warning in warnings if warning]


def column_lines(report: DataReport) -> list[str]:
    """Return lines for the log: the columns of each source, and the keys of its turns."""
    lines = []
    for (source, place), uses in groupby(report.columns, key=lambda use: (use.source, use.place)):
        shown = [f"{use.name}: {use.use}" + (f" ({use.rows} rows)" if use.rows != use.of else "") for use in uses]
        more = f"; and {len(shown) - _SHOWN_USES} more" if len(shown) > _SHOWN_USES else ""
        what = "columns" if place == "column" else "keys of turns"
        lines.append(f"{what} of {source}: {'; '.join(shown[:_SHOWN_USES])}{more}")
    return lines


def role_warnings(config: DataConfig, rows: AllRows, labels: list[str]) -> list[str]:
    """Return warnings about files that are named as held out but may be trained on, and about evaluation sets with
    files named as training data."""
    warnings = []
    for number, label in enumerate(labels):
        shards = [s.summary for s in rows.shards if source_index(config, s.summary) == number]
        is_source = number < len(config.sources)
        files = list(dict.fromkeys(name for s in shards if s["role"] == "auto" or not is_source for name in s["files"]))
        warnings.append((held_out_warning if is_source else scored_training_warning)(label, files))
    return [warning for warning in warnings if warning]


def split_lines(report: DataReport) -> list[str]:
    """Return lines for the log: the sources whose files are divided as their names say."""
    return [
        f"splits of {count.source}: files named train are trained on, files named test or validation are held out"
        for count in report.sources
        if count.role == "train and test"
    ]

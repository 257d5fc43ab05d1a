"""From scanned shards to the tables of a run: what repeats or is invalid leaves, counted; the rest is split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.errors import DataError
from configs.schema import DataConfig
from configs.wire import HELD_OUT, CheckCount, DataReport
from tasks.get_data.all_rows import AllRows, Mask, Positions, source_index
from tasks.get_data.duplicates import conflicts, duplicates, leaks
from tasks.get_data.leaving import Leaving
from tasks.get_data.split import choose_test_rows, copies_by_weight
from tasks.get_data.write_rows import Written, write_quarantine, write_splits
from tasks.rows.formats import listed

MIN_ROWS = 10
FEW_ROWS = 50


def merge_shards(config: DataConfig, directories: Sequence[Path], output: Path) -> DataReport:
    """Write `train.parquet`, `test.parquet` and `quarantine.parquet` to `output`; return the counts.

    The result depends on the rows and their order, not on how they were divided into shards. Memory: 80 bytes for each
    row, for near duplicates 1 kB more, and what the operating system keeps of the mapped texts.

    Raises:
        InvalidRowsError: more invalid rows than `config.max_invalid_rows`.
        DataError: a column of `data.group_by` that is not there, fewer than 10 valid rows, or nothing to hold out.
    """
    rows = AllRows(config, directories)
    _check_group_column(config, rows)
    leaving = Leaving(config, rows)
    leaving.check_invalid_rows()
    for repeats in duplicates(rows, ~leaving.dropped, config):
        leaving.add_repeats(repeats)
    for repeats in leaks(rows, ~leaving.dropped & ~leaving.repeated):
        leaving.add_repeats(repeats)
    # a repeat that leaves contradicts nothing
    leaving.add_conflicts(conflicts(rows, ~leaving.dropped & ~leaving.repeated))
    leaving.check_invalid_rows()
    kept = ~leaving.dropped & ~leaving.repeated
    is_test, copies = _divide(config, rows, kept, leaving)
    labels = _labels(config, rows)
    dataset_names = [HELD_OUT] * len(config.sources) + labels[len(config.sources) :]
    written = write_splits(rows, copies, is_test, dataset_names, output)
    shown = write_quarantine(leaving.failures(), output)
    counts = leaving.source_counts(labels, kept)
    report = DataReport(
        sources=counts,
        train_rows=int(copies.sum()),
        test_rows=int((is_test & (rows.roles != "evaluation")).sum()),
        evaluation_rows=int((is_test & (rows.roles == "evaluation")).sum()),
        quarantined_rows=sum(count.quarantined for count in counts),
        deduplicated_rows=sum(count.deduplicated for count in counts),
        checks=leaving.check_counts(),
        failures=shown.first,
        failure_cases=shown.number,
        samples=written.samples,
        balance=written.balance,
        warnings=_warnings(config, int((kept & (rows.roles != "evaluation")).sum()), written),
    )
    return report


def _divide(config: DataConfig, rows: AllRows, kept: Mask, leaving: Leaving) -> tuple[Mask, Positions]:
    """Return (held-out rows, of `test_fraction`, `test` sources and evaluation sets; copies of each training row)."""
    is_given = (rows.roles == "test") | (rows.roles == "evaluation")
    own = kept & (rows.roles != "evaluation")
    if own.sum() < MIN_ROWS:
        removed = int((leaving.repeated & (rows.roles != "evaluation")).sum())
        repeats = f" without {removed} repeated ones" if removed else ""
        raise DataError(
            f"data.sources: {int(own.sum())} valid rows in all{repeats}, at least {MIN_ROWS} are needed; "
            "add rows or sources"
        )
    is_test = kept & is_given
    if not any(source.role == "test" for source in config.sources):
        free = np.flatnonzero(own)
        is_test[free] = choose_test_rows(
            rows.digests["question"][free],
            rows.digests["group"][free],
            (rows.roles == "auto")[free],
            config.test_fraction,
        )
    train = kept & ~is_test
    if not (is_test & own).any():
        raise DataError(
            "data.sources: all rows are for training, so none can be held out; give a source `role: test`"
            if not (rows.roles == "auto").any()
            else "data.sources: all rows ask the same question, so none can be held out; add other rows"
        )
    if not train.any():
        raise DataError("data.sources: no rows are left to train on; add a source that is not `role: test`")
    copies = np.zeros(len(rows), dtype=np.int64)
    weights = [source.weight for source in config.sources]
    copies[train] = copies_by_weight(rows.digests["content"][train], rows.sources[train], weights, config.seed)
    return is_test, copies


def _labels(config: DataConfig, rows: AllRows) -> list[str]:
    """Return the name of each source and evaluation set; evaluation sets of one name are numbered."""
    found = {source_index(config, shard.summary): str(shard.summary["label"]) for shard in rows.shards}
    labels = [found[number] for number in sorted(found)]
    for number in range(len(config.sources), len(labels)):
        same = labels[len(config.sources) : number].count(labels[number])
        labels[number] += f"#{same + 1}" if same else ""
    return labels


def _check_group_column(config: DataConfig, rows: AllRows) -> None:
    if config.group_by is None:
        return
    for number in range(len(config.sources)):
        shards = [s.summary for s in rows.shards if source_index(config, s.summary) == number]
        if not any(summary["has_group"] for summary in shards) and any(summary["columns"] for summary in shards):
            raise DataError(
                f"data.group_by={config.group_by}: data.sources[{number}] ({shards[0]['label']}) has no such column; "
                f"it has {listed(shards[0]['columns'])}"
            )


def _warnings(config: DataConfig, num_rows: int, written: Written) -> list[str]:
    few = f"only {num_rows} valid rows; scores on a handful of held-out rows say little"
    systems = written.system_warnings if config.checks.system_prompts == "warn" else []
    return [*([few] if num_rows < FEW_ROWS else []), *systems, *written.warnings]


def summary_lines(report: DataReport) -> list[str]:
    """Return the counts in one line, and a line for each check that found something and each warning, for the log."""
    return [
        *(f"{_SAID[count.policy]}: {count.rows} rows {_describe_check(count)}" for count in report.checks),
        *(f"warning: {warning}" for warning in report.warnings),
        report.counts_line(),
    ]


_SAID = {"warn": "warning", "quarantine": "quarantined", "fail": "quarantined"}


def _describe_check(count: CheckCount) -> str:
    such_as = f", such as {', '.join(count.first_rows[:3])}"
    if count.check == "leak":
        return f"repeat a row of a given held-out set, or ask what it asks{such_as}"
    setting = "data.contamination" if count.check == "contamination" else f"data.checks.{count.check}"
    return f"fail {setting}{such_as}"

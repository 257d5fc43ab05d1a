"""Merge scanned shards into the tables of a run: remove and count invalid and repeated rows, and split the rest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from configs.errors import DataError
from configs.printable import one_line
from configs.schema import DataConfig
from configs.wire import HELD_OUT, CheckCount, DataReport
from tasks.get_data.all_rows import AllRows, Mask, Positions, source_index
from tasks.get_data.column_report import column_lines, role_warnings, split_lines, used_columns
from tasks.get_data.duplicates import conflicts, duplicates, leaks
from tasks.get_data.fingerprints import seeded
from tasks.get_data.hashed_texts import Digests
from tasks.get_data.removed_rows import RemovedRows
from tasks.get_data.split import choose_test_rows, copies_by_weight
from tasks.get_data.write_rows import SplitSummary, write_splits
from tasks.rows.formats import shown_columns
from tasks.rows.quarantine import write_quarantine

MIN_ROWS = 10
FEW_ROWS = 50


def merge_shards(config: DataConfig, directories: Sequence[Path], output: Path) -> DataReport:
    """Write `train.parquet`, `test.parquet` and `quarantine.parquet` to `output`; return the counts.

    The result depends on the rows and their order, not on their division into shards. Memory: 112 bytes a row, 1 kB a
    row more to find near duplicates, and the pages of the mapped texts that the operating system keeps.

    Raises:
        InvalidRowsError: more rows are invalid than `config.max_invalid_rows`.
        DataError: the column `data.group_by` does not exist, there are fewer than 10 valid rows, or a split is empty.
    """
    rows = AllRows(config, directories)
    _check_group_column(config, rows)
    labels = _labels(config, rows)
    columns, column_warnings = used_columns(config, rows, labels)
    removed = RemovedRows(config, rows)
    removed.check_invalid_rows()
    for repeats in duplicates(rows, ~removed.quarantined, config):
        removed.add_repeats(repeats)
    for repeats in leaks(rows, ~removed.quarantined & ~removed.repeated):
        removed.add_repeats(repeats)
    # conflicts come last: a row that was removed conflicts with nothing
    removed.add_conflicts(conflicts(rows, ~removed.quarantined & ~removed.repeated, config))
    removed.check_invalid_rows()
    kept = ~removed.quarantined & ~removed.repeated
    num_repeated = int((removed.repeated & (rows.roles != "evaluation")).sum())
    is_test, copies = _split_rows(config, rows, kept, num_repeated, removed)
    dataset_names = [HELD_OUT] * len(config.sources) + labels[len(config.sources) :]
    splits = write_splits(rows, copies, is_test, dataset_names, output)
    quarantine = write_quarantine(removed.failures(), output)
    counts = removed.source_counts(labels, kept)
    return DataReport(
        sources=counts,
        train_rows=int(copies.sum()),
        test_rows=int((is_test & (rows.roles != "evaluation")).sum()),
        evaluation_rows=int((is_test & (rows.roles == "evaluation")).sum()),
        quarantined_rows=sum(count.quarantined for count in counts),
        invalid_rows=removed.num_invalid(),
        max_invalid_rows=config.max_invalid_rows,
        deduplicated_rows=sum(count.deduplicated for count in counts),
        checks=removed.check_counts(),
        columns=columns,
        failures=quarantine.first_cases,
        failure_cases=quarantine.num_cases,
        samples=splits.samples,
        balance=splits.balance,
        warnings=[
            *column_warnings,
            *role_warnings(config, rows, labels),
            *_split_warnings(rows, kept),
            *_warnings(config, splits),
        ],
    )


def _first_reason(removed: RemovedRows) -> str:
    """Return a line with the first row that was set aside, and why; empty if none was. It never shows the content."""
    first = next(removed.failures(), None)
    if first is None:
        return ""
    return f"\nthe first of those set aside: {one_line(first['file'])}:{first['row']}: {one_line(first['reason'])}"


def _split_rows(
    config: DataConfig, rows: AllRows, kept: Mask, num_repeated: int, removed: RemovedRows
) -> tuple[Mask, Positions]:
    """Return (mask of held-out rows, number of copies of each training row).

    All rows of evaluation sets, and of sources and files with the role `test`, are held out; without such a role,
    `test_fraction` of the other rows is. Where all sources have it, there are no training rows.
    """
    from_sources = kept & (rows.roles != "evaluation")
    if from_sources.sum() < MIN_ROWS:
        repeats = f" without {num_repeated} repeated ones" if num_repeated else ""
        raise DataError(
            f"data.sources: {int(from_sources.sum())} valid rows in all{repeats}, at least {MIN_ROWS} are needed; "
            f"add rows or sources{_first_reason(removed)}"
        )
    is_test = kept & ((rows.roles == "test") | (rows.roles == "evaluation"))
    if not any(shard.summary["role"] == "test" for shard in rows.shards):
        candidates = np.flatnonzero(from_sources)
        is_test[candidates] = choose_test_rows(
            _questions(rows, candidates, config.seed),
            rows.digests["group"][candidates],
            (rows.roles == "auto")[candidates],
            config.test_fraction,
        )
    is_train = kept & ~is_test
    if not (is_test & from_sources).any():
        raise DataError(
            "data.sources: all rows are for training, so none can be held out; give a source `role: test`"
            if not (rows.roles == "auto").any()
            else "data.sources: all rows ask the same question, so none can be held out; add other rows"
        )
    if not is_train.any() and not all(source.role == "test" for source in config.sources):
        # an evaluation alone has none, and the plan of a training refuses such sources
        raise DataError("data.sources: no rows are left to train on; add a source that is not `role: test`")
    copies = np.zeros(len(rows), dtype=np.int64)
    weights = [source.weight for source in config.sources]
    copies[is_train] = copies_by_weight(rows.digests["content"][is_train], rows.sources[is_train], weights, config.seed)
    return is_test, copies


def _questions(rows: AllRows, candidates: Positions, seed: int) -> Digests:
    """Return the digests by which rows are split: their questions, or whole prompts if all have the same question."""
    if not _begin_alike(rows, candidates):
        return rows.digests["question"][candidates]
    return seeded(rows.digests["prompt"][candidates], seed)


def _begin_alike(rows: AllRows, candidates: Positions) -> bool:
    questions = rows.digests["question"][candidates]
    return bool(len(questions)) and not (questions != questions[0]).any()


def _labels(config: DataConfig, rows: AllRows) -> list[str]:
    """Return the label of each source and evaluation set; evaluation sets with the same label are numbered."""
    label_of = {source_index(config, shard.summary): str(shard.summary["label"]) for shard in rows.shards}
    labels = [label_of[number] for number in sorted(label_of)]
    for number in range(len(config.sources), len(labels)):
        num_same = labels[len(config.sources) : number].count(labels[number])
        labels[number] += f"#{num_same + 1}" if num_same else ""
    return labels


def _check_group_column(config: DataConfig, rows: AllRows) -> None:
    if config.group_by is None:
        return
    for number in range(len(config.sources)):
        shards = [s.summary for s in rows.shards if source_index(config, s.summary) == number]
        if not any(summary["has_group"] for summary in shards) and any(summary["columns"] for summary in shards):
            raise DataError(
                f"data.group_by={one_line(config.group_by)}: data.sources[{number}] ({shards[0]['label']}) has no such "
                f"column; it has {shown_columns(shards[0]['columns'])}"
            )


def _split_warnings(rows: AllRows, kept: Mask) -> list[str]:
    from_sources = np.flatnonzero(kept & (rows.roles != "evaluation"))
    warnings = []
    if len(from_sources) < FEW_ROWS:
        warnings.append(f"only {len(from_sources)} valid rows; scores on a handful of held-out rows say little")
    if _begin_alike(rows, from_sources) and not any(shard.summary["role"] == "test" for shard in rows.shards):
        warnings.append("all rows begin with the same question, so they were split by all turns before the answer")
    return warnings


def _warnings(config: DataConfig, splits: SplitSummary) -> list[str]:
    return [*(splits.system_warnings if config.checks.system_prompts == "warn" else []), *splits.warnings]


def summary_lines(report: DataReport) -> list[str]:
    """Return lines for the log: one or two with the columns of each source, one for each check that rows fail, one for
    each warning, and one with the counts."""
    return [
        *split_lines(report),
        *column_lines(report),
        *(f"{_POLICY_LABELS[count.policy]}: {count.rows} rows {_describe_check(count)}" for count in report.checks),
        *(f"warning: {warning}" for warning in report.warnings),
        report.counts_line(),
    ]


_POLICY_LABELS = {"mend": "mended", "warn": "warning", "quarantine": "quarantined", "fail": "quarantined"}


def _describe_check(count: CheckCount) -> str:
    examples = f", such as {', '.join(count.first_rows[:3])}"
    if count.check == "leak":
        return f"repeat a row of a given held-out set, or have its prompt or group{examples}"
    if count.policy == "mend":
        return f"by data.tolerate.{count.check}{examples}"
    setting = "data.contamination" if count.check == "contamination" else f"data.checks.{count.check}"
    return f"fail {setting}{examples}"

"""Scan one shard: recognise the format of its rows, validate them, and check their content; the merge compares rows."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from tqdm import tqdm

from configs.printable import one_line, print_line
from configs.schema import DataConfig, RowFormat, SourceConfig, ToleranceConfig
from configs.wire import Shard
from tasks.get_data.contamination import EvaluationTexts
from tasks.get_data.dedup import signatures
from tasks.get_data.fingerprints import fingerprints
from tasks.get_data.shard_files import ShardWriter
from tasks.rows.checks import check_rows, whole_texts
from tasks.rows.formats import (
    CANONICAL_COLUMNS,
    Entry,
    canonical_entries,
    column_mapping,
    columns_of,
    detect_format,
)
from tasks.rows.quarantine import VALUE_CHARACTERS
from tasks.rows.readers import BadRow
from tasks.rows.schemas import find_faults
from tasks.rows.sources import RawRow, first_records, read_shard, read_source, source_label
from tasks.rows.tolerance import mended_entry, mended_row
from tasks.rows.used_columns import ColumnCounts, fault_of_media

# a batch is held in memory: it ends with this many rows, or with about this many characters
_BATCH_ROWS = 2000
_SECONDS_BETWEEN_LINES = 10.0
_BATCH_CHARACTERS = 2**23
_NAMED_ROWS = 5


def scan_shard(
    config: DataConfig, shard: Shard, contamination_revisions: list[str], token: str | None, directory: Path
) -> None:
    """Write the valid rows of `shard` and all failure cases to `directory`; see `ShardWriter`.

    Memory is bounded by a batch of rows, the texts of `config.contamination`, and 112 bytes a row.

    Raises:
        DataError: a file cannot be read or has changed, or the columns fit no format.
        HubError: a hub data set cannot be loaded.
    """
    source: SourceConfig = getattr(config, shard.section)[shard.number]
    label = source_label(source)
    first = first_records(source, shard.revision, token)
    row_format = detect_format(source, label, first, f"data.{shard.section}[{shard.number}]")
    writer = ShardWriter(directory, config.deduplicate == "near")
    columns = columns_of(first)
    mapping = column_mapping(source)
    counts = ColumnCounts(row_format, mapping, config.group_by, columns, source.tools)
    scan = _ShardScan(config, mapping, row_format, source.tools, writer, counts)
    if shard.section == "sources" and config.contamination:
        scan.evaluation_texts = _evaluation_texts(config, contamination_revisions, token)
    rows = tqdm(read_shard(source, shard, token), desc=f"read {one_line(label)}", unit=" rows", disable=None)
    said = time.monotonic()
    for batch in _batches(rows):
        scan.add(batch)
        # the bar shows nothing where the output is no terminal
        if time.monotonic() - said > _SECONDS_BETWEEN_LINES:
            said = time.monotonic()
            print_line(f"data: {one_line(label)}: {scan.num_read:,} rows read so far")
    scan.writer.close(
        {
            "section": shard.section,
            "number": shard.number,
            "role": shard.role,
            "files": list(dict.fromkeys(part.name for part in shard.ranges)),
            "label": label,
            "format": row_format,
            "columns": columns,
            "used_columns": counts.as_json(),
            "has_group": scan.has_group,
            "read": scan.num_read,
            "invalid": scan.num_invalid,
            "checks": {
                check: {"rows": number, "first": scan.first_rows[check]} for check, number in scan.num_failed.items()
            },
        }
    )


def _batches(rows: Iterator[RawRow]) -> Iterator[list[RawRow]]:
    batch: list[RawRow] = []
    size = 0
    for row in rows:
        batch.append(row)
        size += _num_characters(row.record)
        if len(batch) >= _BATCH_ROWS or size >= _BATCH_CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _num_characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        return sum(map(_num_characters, value.values()))
    return sum(map(_num_characters, value)) if isinstance(value, list) else 1


@dataclass
class _ShardScan:
    """A scan in progress: its settings, its writer, and its counts so far."""

    config: DataConfig
    mapping: dict[str, str]
    row_format: RowFormat
    tools: str
    writer: ShardWriter
    column_counts: ColumnCounts
    evaluation_texts: EvaluationTexts | None = None
    has_group: bool = False
    num_read: int = 0
    num_invalid: int = 0
    num_failed: Counter[str] = field(default_factory=Counter)
    first_rows: dict[str, list[str]] = field(default_factory=dict)

    def add(self, batch: list[RawRow]) -> None:
        """Validate a batch and write its rows and failures."""
        entries: list[tuple[int, Entry]] = []
        failures: list[dict[str, Any]] = []
        for row in batch:
            if isinstance(row.record, BadRow):
                failures.append(
                    _failure(self.num_read, -1, row, "(row)", "format", row.record.reason, row.record.value)
                )
                self.num_read += 1
                self.num_invalid += 1
                continue
            self.column_counts.add(row.record)
            media = fault_of_media(row.record, self.mapping, self.config.checks.unread_column)
            if media is not None:
                failures.append(_failure(self.num_read, -1, row, media[0], "format", media[1], ""))
                self.num_read += 1
                self.num_invalid += 1
                continue
            for entry in canonical_entries(self.mapping, self.row_format, row, self.config.group_by, self.tools):
                entries.append((self.num_read, mended_entry(self.row_format, entry, self.config.tolerate)))
                self.has_group = self.has_group or self.config.group_by in row.record
                self.num_read += 1
        rows, groups = self._valid_rows(entries, failures)
        if len(rows):
            self._check(rows, failures)
            self.writer.add_rows(rows, fingerprints(rows, groups, self.config.seed, self.config.deduplicate))
            if self.config.deduplicate == "near":
                texts = whole_texts(rows) + rows.label
                self.writer.add_signatures(signatures(texts, len(texts)))
        self.writer.add_failures(sorted(failures, key=lambda failure: failure["read_index"]))

    def _valid_rows(
        self, entries: list[tuple[int, Entry]], failures: list[dict[str, Any]]
    ) -> tuple[pd.DataFrame, list[str | None]]:
        """Return (canonical rows, groups) of the valid entries; append the faults of the others to `failures`."""
        # dtype=object: pandas must not turn a missing value into NaN, or a number column into floats
        table = pd.DataFrame([entry.record for _, entry in entries], dtype=object)
        invalid: set[int] = set()
        if entries:
            for fault in find_faults(self.row_format, table).itertuples():
                invalid.add(fault.index)
                read_index, entry = entries[fault.index]
                failures.append(_failure(read_index, -1, entry, fault.column, "format", fault.reason, fault.value))
        self.num_invalid += len(invalid)
        valid = [numbered_entry for index, numbered_entry in enumerate(entries) if index not in invalid]
        rows = []
        for read_index, entry in valid:
            row, changes = mended_row(self.row_format, entry, self.config.tolerate)
            identity = {"read_index": read_index, "file": entry.file, "row": entry.row, "row_id": entry.row_id}
            rows.append({**identity, **row})
            for name in changes:
                self._count(name, entry.row_id)
        columns = ["read_index", "file", "row", *CANONICAL_COLUMNS]
        return pd.DataFrame(rows, columns=columns, dtype=object), [entry.group for _, entry in valid]

    def _check(self, rows: pd.DataFrame, failures: list[dict[str, Any]]) -> None:
        policies = self.config.checks.model_dump() | {"contamination": self.config.contamination_policy}
        texts = whole_texts(rows)
        faults = [tuple(fault)[1:] for fault in check_rows(rows, self.config.checks).itertuples()]
        for hit in self.evaluation_texts.hits(texts) if self.evaluation_texts else []:
            reason = f"shares {hit.share:.0%} of its word sequences with {hit.evaluation_id}"
            faults.append((hit.row, "contamination", "(row)", reason))
        for index, check, column, reason in faults:
            row = rows.iloc[index]
            self._count(check, row.row_id)
            if policies[check] != "warn":
                position = self.writer.num_rows + index
                failures.append(_failure(row["read_index"], position, row, column, check, reason, texts.iloc[index]))

    def _count(self, check: str, row_id: str) -> None:
        self.num_failed[check] += 1
        if self.num_failed[check] <= _NAMED_ROWS:
            self.first_rows.setdefault(check, []).append(row_id)


def _failure(
    read_index: int, position: int, row: Any, column: str, check: str, reason: str, value: str
) -> dict[str, Any]:
    """Return a failure case; `read_index` counts all rows, and `position` valid ones: it is -1 for an invalid row."""
    return {
        "read_index": read_index,
        "position": position,
        "file": row.file,
        "row": row.row,
        "check": check,
        "column": column,
        "reason": reason,
        "value": value[:VALUE_CHARACTERS],
    }


def _evaluation_texts(config: DataConfig, revisions: list[str], token: str | None) -> EvaluationTexts:
    """Return the texts of the evaluation sets that the training data must not contain."""
    return EvaluationTexts(
        (
            identified_text
            for number, (source, revision) in enumerate(zip(config.contamination, revisions, strict=True))
            for identified_text in _texts_with_ids(
                source, revision, token, f"data.contamination[{number}]", config.tolerate
            )
        ),
        config.contamination_ngram,
    )


def _texts_with_ids(
    source: SourceConfig, revision: str, token: str | None, where: str, tolerate: ToleranceConfig
) -> Iterator[tuple[str, str]]:
    """Yield (row id, whole text) for each valid row of a source."""
    first = first_records(source, revision, token)
    row_format = detect_format(source, source_label(source), first, where)
    for batch in _batches(read_source(source, revision, token)):
        usable = [row for row in batch if not isinstance(row.record, BadRow)]
        entries = [
            mended_entry(row_format, entry, tolerate)
            for row in usable
            for entry in canonical_entries(column_mapping(source), row_format, row, tools=source.tools)
        ]
        if not entries:
            continue
        invalid = set(find_faults(row_format, pd.DataFrame([entry.record for entry in entries], dtype=object))["index"])
        rows = [
            {"row_id": entry.row_id, **mended_row(row_format, entry, tolerate)[0]}
            for index, entry in enumerate(entries)
            if index not in invalid
        ]
        table = pd.DataFrame(rows, columns=CANONICAL_COLUMNS, dtype=object)
        yield from zip(table.row_id, whole_texts(table), strict=True)

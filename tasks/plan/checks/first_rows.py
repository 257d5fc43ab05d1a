"""Judges the first rows of each source as the data stage will, with the same readers, formats and schemas."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

import pandas as pd

from configs.errors import DataError, HubError
from configs.objectives import OBJECTIVES, Objective
from configs.schema import DataConfig, SourceConfig, ToleranceConfig
from configs.wire import FailureCase
from tasks.files.places import file_size, find_files, is_splittable
from tasks.files.splits import names_held_out
from tasks.rows.checks import check_rows, whole_texts
from tasks.rows.formats import (
    CANONICAL_COLUMNS,
    Entry,
    canonical_entries,
    column_mapping,
    columns_of,
    detect_format,
)
from tasks.rows.invalid import InvalidRowsError, describe_invalid
from tasks.rows.rows import BadRow
from tasks.rows.schemas import find_faults
from tasks.rows.sources import RawRow, hub_records, read_source, source_label
from tasks.rows.text_files import MAX_ROW_LENGTH
from tasks.rows.tolerance import mended_entry, mended_row
from tasks.rows.used_columns import ColumnCounts, check_unread, fault_of_media
from tasks.tokenize.checks import wrong_kind_error

NUM_ROWS = 20
"""Rows per source that are validated."""
_ROWS_READ = 100
"""Rows from which the data stage detects a source's format."""


@dataclass(frozen=True)
class FirstRows:
    """The properties and faults of the first rows of one source.

    `held_out` holds the names of the files that are held out because they are named so; `rows` does not count theirs.
    `mean_characters` is the mean length of a valid row, with all of its turns and answers. `rows` is the approximate
    number of rows in the source: exact for embedded data, estimated from the bytes of the first rows for lines of text,
    None otherwise. `unread` is a warning about columns that carry meaning and are not read. `canonical` are the valid
    rows as the data stage would write them. `failures` make a row invalid; `others` are those that the config's checks
    only warn about or set aside.
    """

    where: str
    label: str
    row_format: str
    columns: dict[str, str]
    num_rows: int
    kinds: frozenset[str]
    mean_characters: float | None
    rows: float | None
    num_invalid: int = 0
    unread: str = ""
    held_out: frozenset[str] = frozenset()
    canonical: list[dict[str, Any]] = field(default_factory=list)
    failures: list[FailureCase] = field(default_factory=list)
    others: list[FailureCase] = field(default_factory=list)


def read_first_rows(
    config: DataConfig,
    section: Literal["sources", "evaluation"],
    number: int,
    revision: str,
    token: str | None,
) -> FirstRows:
    """Return the properties and faults of the first 20 rows of a source; `revision` is that of a hub data set.

    Raises:
        DataError: a file cannot be read or has no rows, or its columns fit no format, or columns or keys of turns that
            carry meaning are not read.
        HubError: a hub data set cannot be loaded.
    """
    source: SourceConfig = getattr(config, section)[number]
    where = f"data.{section}[{number}]"
    label = source_label(source)
    read = list(islice(_rows(source, revision, token), _ROWS_READ))
    records = [row.record for row in read if not isinstance(row.record, BadRow)]
    row_format = detect_format(source, label, records, where)
    mapping = column_mapping(source)
    held_out = _files_held_out(source) if section == "sources" else frozenset()
    policy = config.checks.unread_column
    counts = ColumnCounts(row_format, mapping, config.group_by, columns_of(records), source.tools)
    for record in records:
        counts.add(record)
    unread = check_unread(where, label, counts, policy)
    failures, entries, others = [], [], []
    for row in read[:NUM_ROWS]:
        if isinstance(row.record, BadRow):
            failures.append(_failure(row, "format", "(row)", row.record.reason, row.record.value))
        elif media := fault_of_media(row.record, mapping, policy):
            failures.append(_failure(row, "format", *media, ""))
        else:
            for entry in canonical_entries(mapping, row_format, row, config.group_by, source.tools):
                entries.append(mended_entry(row_format, entry, config.tolerate))
    faulty: set[int] = set()
    for fault in find_faults(row_format, _table(entries)).itertuples() if entries else ():
        faulty.add(fault.index)
        failures.append(_failure(entries[fault.index], "format", fault.column, fault.reason, fault.value))
    valid = [entry for position, entry in enumerate(entries) if position not in faulty]
    rows = _canonical_rows(row_format, valid, config.tolerate)
    invalid = {(failure.file, failure.row) for failure in failures}
    texts = whole_texts(rows) if valid else pd.Series([], dtype=object)
    policies = config.checks.model_dump()
    for _, index, check, column, reason in check_rows(rows, config.checks).itertuples() if valid else ():
        case = _failure(valid[index], check, column, reason, texts.iloc[index])
        if policies[check] == "fail":
            failures.append(case)
            invalid.add((case.file, case.row))
        else:
            others.append(case)
    return FirstRows(
        where=where,
        label=label,
        row_format=row_format,
        columns=mapping,
        num_rows=min(len(read), NUM_ROWS),
        kinds=frozenset(rows.kind) if valid else frozenset(),
        mean_characters=float(texts.map(len).mean()) if valid else None,
        rows=_estimated_rows(source, read, held_out),
        held_out=held_out,
        num_invalid=len(invalid),
        unread=unread,
        canonical=rows.to_dict("records") if valid else [],
        failures=sorted(failures, key=lambda case: case.row),
        others=others,
    )


def check_validity(rows: FirstRows, tolerated: int) -> str:
    """Return a warning about invalid rows, or an empty string.

    Raises:
        InvalidRowsError: there are more than `tolerated`; names files, rows and reasons, never content.
    """
    if rows.num_invalid > tolerated:
        among = f" among the first {rows.num_rows} of {rows.label}"
        raise InvalidRowsError(describe_invalid(rows.failures, rows.num_invalid, tolerated, among), rows.failures)
    cases = rows.failures or rows.others
    if not cases:
        return rows.unread
    first, number = cases[0], len({(case.file, case.row) for case in cases})
    found = f"{number} of the first {rows.num_rows} rows: {first.file} row {first.row}, {first.column}: {first.reason}"
    return f"{found}; {rows.unread}" if rows.unread else found


def check_kinds(sources: Sequence[FirstRows], objective: Objective) -> str:
    """Return the kinds of rows on which `objective` trains here, in words.

    Raises:
        DataError: there are rows of a kind that the objective does not take.
    """
    for rows in sources:
        wrong_kinds = sorted(kind for kind in rows.kinds if kind not in OBJECTIVES[objective].row_kinds)
        if wrong_kinds:
            raise wrong_kind_error(f"the first {rows.num_rows} rows of {rows.label}", wrong_kinds[0], objective)
    kinds = sorted({kind for rows in sources for kind in rows.kinds})
    return f"{objective} takes {' and '.join(kinds) or 'these'} rows"


def _rows(source: SourceConfig, revision: str, token: str | None) -> Iterator[RawRow]:
    if source.hub is None:
        yield from read_source(source, revision, token)
        return
    label = source_label(source)
    records = hub_records(source, revision, token, streaming=True)
    for number in range(1, _ROWS_READ + 1):
        try:
            record = next(records)
        except StopIteration:
            return
        except (DataError, HubError):
            raise
        # while streaming, the library raises the errors of all its parts
        except Exception as error:
            raise HubError(
                f"data set {source.hub} cannot be read ({type(error).__name__}); check it on the hub"
            ) from None
        yield RawRow(label, number, record)


def _table(entries: Sequence[Entry]) -> pd.DataFrame:
    # dtype=object, as in the data stage: pandas must not turn a missing value into NaN
    return pd.DataFrame([entry.record for entry in entries], dtype=object)


def _canonical_rows(row_format: Any, entries: Sequence[Entry], tolerate: ToleranceConfig) -> pd.DataFrame:
    rows = [{"row_id": entry.row_id, **mended_row(row_format, entry, tolerate)[0]} for entry in entries]
    return pd.DataFrame(rows, columns=CANONICAL_COLUMNS, dtype=object)


def _failure(row: RawRow | Entry, check: str, column: str, reason: str, value: str) -> FailureCase:
    return FailureCase(file=row.file, row=row.row, check=check, column=column, reason=reason, value=value[:2000])


def _files_held_out(source: SourceConfig) -> frozenset[str]:
    if not source.reads_files or source.path is None or source.role != "auto":
        return frozenset()
    return frozenset(names_held_out(find_files(source.path)))


def _estimated_rows(source: SourceConfig, read: Sequence[RawRow], held_out: frozenset[str]) -> float | None:
    """Return the approximate number of rows of a source: its bytes divided by the mean bytes of its first lines."""
    from configs.embedded.names import parse_embedded_source

    if isinstance(source.path, str) and not source.reads_files:
        return float(parse_embedded_source(source.path)[1])
    if len(read) < _ROWS_READ and source.hub is None:
        return float(sum(row.file not in held_out for row in read))
    if source.path is None:
        return None
    files = [file for file in find_files(source.path) if file.name not in held_out]
    sizes = [file_size(file.path) for file in files]
    if not all(is_splittable(file.path) for file in files) or None in sizes:
        return None
    from tasks.files.streams import open_lines

    with open_lines(files[0].path) as stream:
        first = islice(iter(lambda: stream.readline(MAX_ROW_LENGTH), b""), _ROWS_READ)
        lines = [line for line in first if line.strip()]
    return sum(size or 0 for size in sizes) / max(1.0, sum(map(len, lines)) / max(1, len(lines)))

"""From sources to checked, split rows: read, recognise, validate, set aside, split, count."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from configs.errors import DataError
from configs.schema import DataConfig, SourceConfig
from configs.wire import DataReport, FailureCase, Sample, SourceCount
from tasks.get_data.formats import canonical_records, canonical_row, detect_format
from tasks.get_data.schemas import find_faults
from tasks.get_data.sources import read_source
from tasks.get_data.split import split_rows

ROW_COLUMNS = ["row_id", "kind", "prompt", "completion", "messages"]
MIN_ROWS = 10
FEW_ROWS = 50
_NUM_SAMPLES = 5


@dataclass
class LoadedData:
    """Canonical rows (columns `ROW_COLUMNS`), the quarantine (one line per failure case), and their counts."""

    train: pd.DataFrame
    test: pd.DataFrame
    quarantine: pd.DataFrame
    report: DataReport


class InvalidRowsError(DataError):
    """More invalid rows than the config tolerates. `failures` holds all of them, for a Deck."""

    def __init__(self, message: str, failures: list[FailureCase] | None = None) -> None:
        super().__init__(message)
        self.failures = failures or []


def load_data(config: DataConfig, revisions: list[str], token: str | None) -> LoadedData:
    """Return the valid rows of all sources, split, with every other row in the quarantine.

    Raises:
        InvalidRowsError: more invalid rows than `config.max_invalid_rows`.
        DataError: unreadable sources, unknown columns, or fewer than 10 valid rows.
        HubError: a hub data set that cannot be loaded.
    """
    kept: list[pd.DataFrame] = []
    failures: list[FailureCase] = []
    counts: list[SourceCount] = []
    for index, (source, revision) in enumerate(zip(config.sources, revisions, strict=True)):
        rows, faults, count = _load_source(f"data.sources[{index}]", source, revision, token)
        kept.append(rows)
        failures += faults
        counts.append(count)
    failures.sort(key=lambda failure: (failure.file, failure.row))
    quarantined = sum(count.quarantined for count in counts)
    if quarantined > config.max_invalid_rows:
        raise InvalidRowsError(_describe(failures, quarantined, config.max_invalid_rows), failures)
    rows = pd.concat(kept, ignore_index=True)
    if len(rows) < MIN_ROWS:
        raise DataError(
            f"data.sources: {len(rows)} valid rows in all, at least {MIN_ROWS} are needed; add rows or sources"
        )
    warnings = []
    if len(rows) < FEW_ROWS:
        warnings.append(f"only {len(rows)} valid rows; scores on a handful of held-out rows say little")
    train, test = split_rows(rows, config.test_fraction, config.seed)
    if test.empty:
        raise DataError("data.sources: all rows ask the same question, so none can be held out; add other rows")
    report = DataReport(
        sources=counts,
        train_rows=len(train),
        test_rows=len(test),
        quarantined_rows=quarantined,
        failures=failures,
        samples=[
            Sample(row_id=row.row_id, prompt=row.prompt, completion=row.completion)
            for row in train.head(_NUM_SAMPLES).itertuples()
        ],
        warnings=warnings,
    )
    quarantine = pd.DataFrame([failure.model_dump() for failure in failures], columns=list(FailureCase.model_fields))
    return LoadedData(train, test, quarantine.astype({"row": "int64"}), report)


def summary_lines(report: DataReport) -> list[str]:
    """Return one line of counts, and one for each warning, for the log."""
    read = sum(count.read for count in report.sources)
    kept = sum(count.kept for count in report.sources)
    return [
        f"data: {read} rows read = {kept} kept ({report.train_rows} train, {report.test_rows} test) "
        f"+ {report.quarantined_rows} quarantined",
        *(f"warning: {warning}" for warning in report.warnings),
    ]


def _load_source(
    where: str, source: SourceConfig, revision: str, token: str | None
) -> tuple[pd.DataFrame, list[FailureCase], SourceCount]:
    raw = read_source(source, revision, token)
    row_format = detect_format(source, raw, where)
    row_ids, records = [], []
    for row_id, row in canonical_records(source, row_format, raw):
        row_ids.append(row_id)
        records.append(row)
    # dtype=object: pandas must not turn a missing value into NaN, or a number column into floats
    table = pd.DataFrame([record.record for record in records], dtype=object)
    faults = find_faults(row_format, table) if records else pd.DataFrame({"index": []})
    failures = list(raw.failures)
    for fault in faults.itertuples():
        row = records[fault.index]
        failures.append(
            FailureCase(file=row.file, row=row.row, column=fault.column, reason=fault.reason, value=fault.value)
        )
    bad = set(faults["index"])
    rows = [
        {"row_id": row_ids[position], **canonical_row(row_format, record.record)}
        for position, record in enumerate(records)
        if position not in bad
    ]
    count = SourceCount(
        source=raw.label,
        format=row_format,
        read=len(records) + len(raw.failures),
        kept=len(rows),
        quarantined=len(bad) + len(raw.failures),
    )
    assert count.read == count.kept + count.quarantined
    return pd.DataFrame(rows, columns=ROW_COLUMNS, dtype=object), failures, count


def _describe(failures: list[FailureCase], quarantined: int, tolerated: int) -> str:
    first = failures[0]
    others = ", ".join(
        f"{f.file} row {f.row}, {f.column}" if f.column != "(row)" else f"{f.file} row {f.row}" for f in failures[1:5]
    )
    more = f"; also {others}{', ...' if len(failures) > 5 else ''}" if others else ""
    return (
        f"{first.file} row {first.row}, column {first.column}: {first.reason}{more}\n"
        f"{quarantined} invalid row{'s' if quarantined > 1 else ''}, data.max_invalid_rows={tolerated} "
        "tolerated; repair them or raise it (invalid rows go to the quarantine, never into training)"
    )

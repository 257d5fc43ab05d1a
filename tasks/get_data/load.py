"""From sources to checked, split rows: read, recognise, validate, set aside, deduplicate, split, count."""

from __future__ import annotations

from dataclasses import dataclass, field

import pandas as pd

from configs.errors import DataError
from configs.schema import DataConfig, RowFormat, SourceConfig
from configs.wire import CheckCount, DataReport, FailureCase, Sample, SourceCount
from tasks.get_data.checks import check_rows, system_prompt_warnings, whole_texts
from tasks.get_data.duplicates import contamination_faults, duplicate_faults
from tasks.get_data.formats import canonical_records, canonical_row, detect_format
from tasks.get_data.schemas import find_faults
from tasks.get_data.sources import RawSource, read_source
from tasks.get_data.split import mix_by_weight, split_rows

ROW_COLUMNS = ["row_id", "kind", "prompt", "completion", "messages", "rejected", "label"]
MIN_ROWS = 10
FEW_ROWS = 50
_NUM_SAMPLES = 5
_VALUE_CHARACTERS = 2000
# where a row came from, beside its canonical columns, until the rows are split
_ORIGIN = ["source", "file", "row", "group"]


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
    """Return the valid rows of all sources, without duplicates, split, with every other row in the quarantine.

    `revisions` are those of `config.sources` and, after them, of `config.contamination`.

    Raises:
        InvalidRowsError: more invalid rows than `config.max_invalid_rows`.
        DataError: unreadable sources, unknown columns, or fewer than 10 valid rows.
        HubError: a hub data set that cannot be loaded.
    """
    read = _read_sources(config, revisions, token)
    faults = check_rows(read.rows, config.checks)
    evaluation = _evaluation_texts(config, revisions[len(config.sources) :], token)
    if evaluation:
        faults = pd.concat([faults, contamination_faults(read.rows, evaluation, config.contamination_ngram)])
    policies = config.checks.model_dump() | {"contamination": config.contamination_policy}
    failures, dropped = _set_aside(read.rows, faults, policies)
    failures = sorted([*read.failures, *failures], key=lambda failure: (failure.file, failure.row))
    failing = {
        index for index, check in zip(faults["index"], faults["check"], strict=True) if policies[check] == "fail"
    }
    invalid = sum(read.invalid) + len(failing)
    if invalid > config.max_invalid_rows:
        fatal = [f for f in failures if f.check == "format" or policies[f.check] == "fail"]
        raise InvalidRowsError(_describe(fatal, invalid, config.max_invalid_rows), failures)
    valid = read.rows.drop(index=sorted(dropped))
    repeats, repeated = _set_aside(valid, duplicate_faults(valid, config), {"duplicate": "deduplicate"})
    rows = valid.drop(index=sorted(repeated))
    counts = _count(read, [source.weight for source in config.sources], dropped, valid, rows)
    report = DataReport(
        sources=counts,
        train_rows=0,
        test_rows=0,
        quarantined_rows=sum(count.quarantined for count in counts),
        deduplicated_rows=len(valid) - len(rows),
        checks=_check_counts(read.rows, faults, policies),
        failures=sorted([*failures, *repeats], key=lambda failure: (failure.file, failure.row)),
        samples=[],
        warnings=_warnings(rows, config),
    )
    return _split(rows, config, report)


def _split(rows: pd.DataFrame, config: DataConfig, report: DataReport) -> LoadedData:
    if len(rows) < MIN_ROWS:
        repeats = f" without {report.deduplicated_rows} repeated ones" if report.deduplicated_rows else ""
        raise DataError(
            f"data.sources: {len(rows)} valid rows in all{repeats}, at least {MIN_ROWS} are needed; add rows or sources"
        )
    train, test = split_rows(rows, config.test_fraction, config.seed)
    train = mix_by_weight(train, [source.weight for source in config.sources], config.seed)
    train, test = train[ROW_COLUMNS], test[ROW_COLUMNS]
    if test.empty:
        raise DataError("data.sources: all rows ask the same question, so none can be held out; add other rows")
    samples = [
        Sample(row_id=row.row_id, prompt=row.prompt, completion=row.completion)
        for row in train.head(_NUM_SAMPLES).itertuples()
    ]
    report = report.model_copy(update={"train_rows": len(train), "test_rows": len(test), "samples": samples})
    quarantine = pd.DataFrame(
        [failure.model_dump() for failure in report.failures], columns=list(FailureCase.model_fields)
    )
    return LoadedData(train, test, quarantine.astype({"row": "int64"}), report)


def _warnings(rows: pd.DataFrame, config: DataConfig) -> list[str]:
    warnings = []
    if len(rows) < FEW_ROWS:
        warnings.append(f"only {len(rows)} valid rows; scores on a handful of held-out rows say little")
    if config.checks.system_prompts == "warn":
        warnings += system_prompt_warnings(rows)
    return warnings


def summary_lines(report: DataReport) -> list[str]:
    """Return the counts in one line, and a line for each check that found something and each warning, for the log."""
    return [
        *(f"{_SAID[count.policy]}: {count.rows} rows {_describe_check(count)}" for count in report.checks),
        *(f"warning: {warning}" for warning in report.warnings),
        report.counts_line(),
    ]


_SAID = {"warn": "warning", "quarantine": "quarantined", "fail": "quarantined"}


def _describe_check(count: CheckCount) -> str:
    setting = "data.contamination" if count.check == "contamination" else f"data.checks.{count.check}"
    return f"fail {setting}, such as {', '.join(count.first_rows[:3])}"


@dataclass
class _Read:
    """All rows that have their format; for each source its label, format, number of rows read and of invalid ones."""

    rows: pd.DataFrame
    failures: list[FailureCase] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    formats: list[str] = field(default_factory=list)
    read: list[int] = field(default_factory=list)
    invalid: list[int] = field(default_factory=list)


def _read_sources(config: DataConfig, revisions: list[str], token: str | None) -> _Read:
    result, tables = _Read(pd.DataFrame()), []
    for number, source in enumerate(config.sources):
        where = f"data.sources[{number}]"
        raw = read_source(source, revisions[number], token)
        row_format = detect_format(source, raw, where)
        _check_group_column(config, raw, where)
        rows, failures, invalid = _canonical(source, raw, row_format, config.group_by)
        tables.append(rows.assign(source=number))
        result.failures += failures
        result.labels.append(raw.label)
        result.formats.append(row_format)
        result.read.append(len(rows) + invalid)
        result.invalid.append(invalid)
    result.rows = pd.concat(tables, ignore_index=True)
    return result


def _check_group_column(config: DataConfig, raw: RawSource, where: str) -> None:
    if config.group_by is not None and raw.rows and not any(config.group_by in row.record for row in raw.rows):
        raise DataError(
            f"data.group_by={config.group_by}: {where} ({raw.label}) has no such column; "
            f"it has {', '.join(raw.rows[0].record)}"
        )


def _canonical(
    source: SourceConfig, raw: RawSource, row_format: RowFormat, group_by: str | None
) -> tuple[pd.DataFrame, list[FailureCase], int]:
    """Return (canonical rows, failure cases, number of invalid rows) of one source."""
    entries = list(canonical_records(source, row_format, raw, group_by))
    # dtype=object: pandas must not turn a missing value into NaN, or a number column into floats
    table = pd.DataFrame([row.record for _, row, _ in entries], dtype=object)
    faults = find_faults(row_format, table) if entries else pd.DataFrame({"index": []})
    failures = list(raw.failures)
    for fault in faults.itertuples():
        row = entries[fault.index][1]
        value = fault.value[:_VALUE_CHARACTERS]
        failures.append(FailureCase(file=row.file, row=row.row, column=fault.column, reason=fault.reason, value=value))
    bad = set(faults["index"])
    rows = [
        {
            "row_id": row_id,
            **canonical_row(row_format, row.record),
            "file": row.file,
            "row": row.row,
            "group": group,
        }
        for position, (row_id, row, group) in enumerate(entries)
        if position not in bad
    ]
    return pd.DataFrame(rows, columns=[*ROW_COLUMNS, *_ORIGIN], dtype=object), failures, len(bad) + len(raw.failures)


def _set_aside(
    rows: pd.DataFrame, faults: pd.DataFrame, policies: dict[str, str]
) -> tuple[list[FailureCase], set[int]]:
    """Return (failure cases, indices) of the rows that leave by a check's policy."""
    failures, dropped = [], set()
    for fault in faults.itertuples():
        if policies[fault.check] == "warn":
            continue
        dropped.add(fault.index)
        row = rows.loc[fault.index]
        value = str(whole_texts(rows.loc[[fault.index]]).iloc[0])[:_VALUE_CHARACTERS]
        failures.append(
            FailureCase(
                file=row.file, row=row.row, column=fault.column, check=fault.check, reason=fault.reason, value=value
            )
        )
    return failures, dropped


def _check_counts(rows: pd.DataFrame, faults: pd.DataFrame, policies: dict[str, str]) -> list[CheckCount]:
    return [
        CheckCount(
            check=str(check), policy=policies[check], rows=len(found), first_rows=list(rows.row_id[found["index"][:5]])
        )
        for check, found in faults.groupby("check", sort=True)
    ]


def _count(
    read: _Read, weights: list[float], dropped: set[int], valid: pd.DataFrame, kept: pd.DataFrame
) -> list[SourceCount]:
    set_aside, counts = read.rows.source[sorted(dropped)], []
    for number, label in enumerate(read.labels):
        num_kept = int((kept.source == number).sum())
        count = SourceCount(
            source=label,
            format=read.formats[number],
            read=read.read[number],
            kept=num_kept,
            quarantined=read.invalid[number] + int((set_aside == number).sum()),
            deduplicated=int((valid.source == number).sum()) - num_kept,
            weight=weights[number],
        )
        assert count.read == count.kept + count.quarantined + count.deduplicated
        counts.append(count)
    return counts


def _evaluation_texts(config: DataConfig, revisions: list[str], token: str | None) -> list[tuple[str, str]]:
    """Return (row id, text) of all rows of the evaluation sets that the data must not contain."""
    texts = []
    for number, (source, revision) in enumerate(zip(config.contamination, revisions, strict=True)):
        raw = read_source(source, revision, token)
        row_format = detect_format(source, raw, f"data.contamination[{number}]")
        rows, _, _ = _canonical(source, raw, row_format, None)
        texts += list(zip(rows.row_id, whole_texts(rows), strict=True))
    return texts


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

"""The quarantine table: the rows that are set aside, each with its file, the check that failed, and the reason.

The data stage writes the table for the rows that fail its checks. The tokenize stage adds those that the chat template
refuses.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from configs.wire import FailureCase
from tasks.files.grouped_tables import GROUP_ROWS, GroupWriter

QUARANTINE_FILE = "quarantine.parquet"
QUARANTINE_SCHEMA = pa.schema(
    [(name, pa.int64() if name == "row" else pa.string()) for name in FailureCase.model_fields]
)
MAX_SHOWN_FAILURES = 1000
VALUE_CHARACTERS = 2000
"""Characters of a row's text that the table keeps."""
_SHOWN_CHARACTERS = 600


def read_quarantine(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the failure cases of a quarantine table, as the columns of `FailureCase`."""
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=GROUP_ROWS):
            yield from batch.to_pylist()


class QuarantineSummary(NamedTuple):
    """The number of failure cases, and the first 1,000 of them, with values cut to 600 characters."""

    num_cases: int
    first_cases: list[FailureCase]


def write_quarantine(failures: Iterable[Mapping[str, Any]], directory: Path) -> QuarantineSummary:
    """Write `quarantine.parquet`, one line for each failure case."""
    writer = GroupWriter(directory / QUARANTINE_FILE, QUARANTINE_SCHEMA)
    num_cases = 0
    first_cases: list[FailureCase] = []
    batch: list[Mapping[str, Any]] = []
    for failure in failures:
        num_cases += 1
        if len(first_cases) < MAX_SHOWN_FAILURES:
            first_cases.append(shown_case(failure))
        batch.append(failure)
        if len(batch) == GROUP_ROWS:
            writer.add(pa.Table.from_pylist(batch, QUARANTINE_SCHEMA))
            batch = []
    writer.add(pa.Table.from_pylist(batch, QUARANTINE_SCHEMA))
    writer.close()
    return QuarantineSummary(num_cases, first_cases)


def shown_case(failure: Mapping[str, Any]) -> FailureCase:
    """Return a failure case for a report, with its value cut to 600 characters: reports must stay small."""
    value = failure["value"]
    ellipsis = " …" if len(value) > _SHOWN_CHARACTERS else ""
    return FailureCase(**{**failure, "value": value[:_SHOWN_CHARACTERS] + ellipsis})

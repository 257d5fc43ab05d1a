"""The rows that the chat template refuses: counted with the invalid rows of the data stage, and put beside them.

Each part writes its refused rows to a file of its own. The join counts the rows of all these files, and adds them to
the quarantine table. It counts a row once, also where a weight above 1 repeats it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from tasks.rows.checks import whole_texts
from tasks.rows.quarantine import VALUE_CHARACTERS
from tasks.tokenize.counts import FoundRows
from tasks.tokenize.rows import Row
from tasks.tokenize.tokens import Refusal

SPLITS = ("train", "test")
CHECK = "template"
_BATCH_ROWS = 1024
REFUSED_SCHEMA = pa.schema([(name, pa.string()) for name in ("row_id", "reason", "fix", "value")])
# a row id is file:row, or file:row.k for the k-th instance of a row
_ROW_ID = re.compile(r"(?P<file>.*):(?P<row>\d+)(?:\.\d+)?", re.DOTALL)


class InvalidRows(NamedTuple):
    """How many rows the data stage `counted` as invalid, and how many are `allowed`: `data.max_invalid_rows`."""

    counted: int = 0
    allowed: int = 0

    @property
    def left(self) -> int:
        """How many more rows may be refused."""
        return max(0, self.allowed - self.counted)


NONE_ALLOWED = InvalidRows()


@dataclass
class RefusedCounts:
    """The refused rows by split, and by reason: their number, the first ids, and the fix."""

    by_split: Counter[str] = field(default_factory=Counter)
    by_reason: dict[str, FoundRows] = field(default_factory=dict)
    fixes: dict[str, str] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Refused rows of all splits."""
        return self.by_split.total()

    def add(self, split: str, row_id: str, reason: str, fix: str) -> None:
        """Count a row that comes after those counted before."""
        self.by_split[split] += 1
        self.by_reason.setdefault(reason, FoundRows()).add([row_id])
        self.fixes.setdefault(reason, fix)


def count_refused(refused: Iterable[Refusal]) -> RefusedCounts:
    """Return the counts of rows that are in memory."""
    counts = RefusedCounts()
    for refusal in refused:
        counts.add("train", refusal.row.row_id, refusal.reason, refusal.fix)
    return counts


def refused_file(split: str) -> str:
    """Return the name of the file with the refused rows of a split, within the folder of a part."""
    return f"refused-{split}.parquet"


def refused_table(refused: Sequence[Refusal]) -> pa.RecordBatch:
    """Return refused rows as a table of `REFUSED_SCHEMA`; `value` is the beginning of a row's text."""
    rows = pd.DataFrame([refusal.row for refusal in refused], columns=Row._fields, dtype=object)
    texts = whole_texts(rows).str.slice(0, VALUE_CHARACTERS)
    columns = [
        [refusal.row.row_id for refusal in refused],
        [refusal.reason for refusal in refused],
        [refusal.fix for refusal in refused],
        texts.tolist(),
    ]
    return pa.RecordBatch.from_arrays([pa.array(column, pa.string()) for column in columns], schema=REFUSED_SCHEMA)


def count_parts(parts: Sequence[Path]) -> RefusedCounts:
    """Return the counts of the refused rows of all `parts`, whose folders are in their order."""
    counts = RefusedCounts()
    for split, row in _refused_rows(parts):
        counts.add(split, row["row_id"], row["reason"], row["fix"])
    return counts


def refused_cases(parts: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yield the refused rows as the columns of `FailureCase`: the training rows, then the held-out ones."""
    for _, row in _refused_rows(parts):
        found = _ROW_ID.fullmatch(row["row_id"])
        assert found is not None, "an id that the data stage did not give"
        yield {
            "file": found["file"],
            "check": CHECK,
            "row": int(found["row"]),
            "column": "(row)",
            "reason": row["reason"],
            "value": row["value"],
        }


def _refused_rows(parts: Sequence[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (split, row) for each refused row, once."""
    for split in SPLITS:
        previous = None
        for part in parts:
            with pq.ParquetFile(part / refused_file(split)) as file:
                for batch in file.iter_batches(batch_size=_BATCH_ROWS):
                    for row in batch.to_pylist():
                        # the copies of a row follow it; the id alone is not enough, as two files may have one name
                        if row != previous:
                            yield split, row
                        previous = row

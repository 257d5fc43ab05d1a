"""The error for invalid rows, which the plan raises for the first rows of a source and the data stage for all rows."""

from __future__ import annotations

from configs.errors import DataError
from configs.printable import one_line
from configs.wire import FailureCase


class InvalidRowsError(DataError):
    """There are more invalid rows than the config tolerates. `failures` holds the first 1,000 cases, for a Deck."""

    def __init__(self, message: str, failures: list[FailureCase] | None = None) -> None:
        super().__init__(message)
        self.failures = failures or []


def describe_invalid(failures: list[FailureCase], num_invalid: int, tolerated: int, among: str = "") -> str:
    """Return a message that names invalid rows; `among` may limit it, as in ` among the first 20 of rows.jsonl`."""
    first = failures[0]
    others = ", ".join(
        one_line(f"{f.file} row {f.row}, {f.column}" if f.column != "(row)" else f"{f.file} row {f.row}")
        for f in failures[1:5]
    )
    more = f"; also {others}{', ...' if len(failures) > 5 else ''}" if others else ""
    policy = "" if first.check in ("format", "contamination") else f" (data.checks.{first.check}: warn keeps such rows)"
    return (
        f"{one_line(f'{first.file} row {first.row}, column {first.column}: {first.reason}')}{policy}{more}\n"
        f"{num_invalid} invalid row{'s' if num_invalid > 1 else ''}{among}, data.max_invalid_rows={tolerated} "
        "tolerated; repair them or raise it (invalid rows go to the quarantine, never into training)"
    )

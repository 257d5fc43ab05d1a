"""Which rows leave and why: every failure case in order, and the counts that must add up."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np

from configs.errors import DataError
from configs.schema import DataConfig
from configs.wire import CheckCount, FailureCase, SourceCount
from tasks.get_data.all_rows import AllRows, Mask, Positions, source_index
from tasks.get_data.duplicates import Repeats
from tasks.get_data.write_rows import SHOWN_FAILURES, shown_case

_VALUE_CHARACTERS = 2000
_NAMED_ROWS = 5


class InvalidRowsError(DataError):
    """More invalid rows than the config tolerates. `failures` holds the first 1,000 failure cases, for a Deck."""

    def __init__(self, message: str, failures: list[FailureCase] | None = None) -> None:
        super().__init__(message)
        self.failures = failures or []


@dataclass
class Leaving:
    """Which rows leave, and why; every failure case in the order in which the rows were read."""

    config: DataConfig
    rows: AllRows
    dropped: Mask = field(init=False)
    repeated: Mask = field(init=False)
    made: list[tuple[str, str, Positions, Positions | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        checks = self.config.checks
        self.policies = checks.model_dump() | {"contamination": self.config.contamination_policy, "format": "fail"}
        self.dropped, self.repeated = np.zeros(len(self.rows), dtype=bool), np.zeros(len(self.rows), dtype=bool)
        self._fatal = np.zeros(len(self.rows), dtype=bool)
        self._conflicts = np.empty(0, dtype=np.int64)
        for start, shard in zip(self.rows.starts.tolist(), self.rows.shards, strict=False):
            for failure in shard.failures():
                if failure["position"] >= 0:
                    self.dropped[start + failure["position"]] = True
                    self._fatal[start + failure["position"]] |= self.policies[failure["check"]] == "fail"

    def add_conflicts(self, positions: Positions) -> None:
        """Note rows of one prompt with different completions."""
        self._conflicts = positions
        if self.config.checks.conflict != "warn":
            self.dropped[positions] = True
            self._fatal[positions] |= self.config.checks.conflict == "fail"
            reason = "differs from that of another row with the same prompt"
            self.made.append(("conflict", reason, positions, None))

    def add_repeats(self, repeats: Repeats) -> None:
        """Note rows that repeat others."""
        self.repeated[repeats.positions] = True
        self.made.append((repeats.check, repeats.words, repeats.positions, repeats.originals))

    def check_invalid_rows(self) -> None:
        """Stop when there are more invalid rows than are tolerated."""
        invalid = sum(shard.summary["invalid"] for shard in self.rows.shards) + int(self._fatal.sum())
        if invalid > self.config.max_invalid_rows:
            fatal = (failure for failure in self.failures() if self.policies[failure["check"]] == "fail")
            first = [shown_case(failure) for failure in islice(fatal, SHOWN_FAILURES)]
            raise InvalidRowsError(describe_invalid(first, invalid, self.config.max_invalid_rows), first)

    def failures(self) -> Iterator[dict[str, Any]]:
        """Yield all failure cases, as the columns of `FailureCase`, in the order in which the rows were read."""
        for start, shard in zip(self.rows.starts.tolist(), self.rows.shards, strict=False):
            made = (self._made(start, len(shard), *each) for each in self.made)
            for failure in heapq.merge(shard.failures(), *made, key=lambda failure: failure["at"]):
                yield {name: failure[name] for name in FailureCase.model_fields}

    def _made(
        self, start: int, size: int, check: str, words: str, positions: Positions, originals: Positions | None
    ) -> Iterator[dict[str, Any]]:
        low, high = np.searchsorted(positions, [start, start + size])
        for place in range(int(low), int(high)):
            position = int(positions[place])
            original = "" if originals is None else f" {self.rows.row(int(originals[place]))['row_id']}"
            yield {
                **self.rows.row(position),
                "check": check,
                "column": "completion" if originals is None else "(row)",
                "reason": words + original,
                "value": self.rows.text(position)[:_VALUE_CHARACTERS],
            }

    def check_counts(self) -> list[CheckCount]:
        """Return how many rows each check found, whatever its policy."""
        found: Counter[str] = Counter()
        first: dict[str, list[str]] = {}
        for shard in self.rows.shards:
            for check, each in shard.summary["checks"].items():
                found[check] += each["rows"]
                first.setdefault(check, []).extend(each["first"])
        if len(self._conflicts):
            found["conflict"] = len(self._conflicts)
            first["conflict"] = self.rows.row_ids(self._conflicts[:_NAMED_ROWS].tolist())
        leaked = np.flatnonzero(self._leaked())
        if len(leaked):
            found["leak"] = len(leaked)
            first["leak"] = self.rows.row_ids(leaked[:_NAMED_ROWS].tolist())
        return [
            CheckCount(
                check=check,
                policy=self.policies.get(check, "quarantine"),
                rows=found[check],
                first_rows=first[check][:_NAMED_ROWS],
            )
            for check in sorted(found)
        ]

    def _leaked(self) -> Mask:
        leaked = np.zeros(len(self.rows), dtype=bool)
        for check, _, positions, _ in self.made:
            leaked[positions] |= check == "leak"
        return leaked

    def source_counts(self, labels: list[str], kept: Mask) -> list[SourceCount]:
        """Return for each source, and each evaluation set after them, where its rows have gone."""
        set_aside = self.dropped | self._leaked()
        every = [*self.config.sources, *self.config.evaluation]
        counts = []
        for number, source in enumerate(every):
            own = self.rows.sources == number
            shards = [s.summary for s in self.rows.shards if source_index(self.config, s.summary) == number]
            count = SourceCount(
                source=labels[number],
                format=shards[0]["format"],
                read=sum(summary["read"] for summary in shards),
                kept=int((own & kept).sum()),
                quarantined=sum(summary["invalid"] for summary in shards) + int((own & set_aside).sum()),
                deduplicated=int((own & self.repeated & ~set_aside).sum()),
                weight=source.weight,
                role=source.role if number < len(self.config.sources) else "evaluation",
            )
            assert count.read == count.kept + count.quarantined + count.deduplicated, count
            counts.append(count)
        return counts


def describe_invalid(failures: list[FailureCase], invalid: int, tolerated: int, among: str = "") -> str:
    """Return which rows are invalid, the first with its reason; `among` says of which rows, where not of all."""
    first = failures[0]
    others = ", ".join(
        f"{f.file} row {f.row}, {f.column}" if f.column != "(row)" else f"{f.file} row {f.row}" for f in failures[1:5]
    )
    more = f"; also {others}{', ...' if len(failures) > 5 else ''}" if others else ""
    return (
        f"{first.file} row {first.row}, column {first.column}: {first.reason}{more}\n"
        f"{invalid} invalid row{'s' if invalid > 1 else ''}{among}, data.max_invalid_rows={tolerated} "
        "tolerated; repair them or raise it (invalid rows go to the quarantine, never into training)"
    )

"""Record which rows are removed and why: all failure cases in order, and counts that must add up."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple

import numpy as np

from configs.schema import DataConfig, ToleranceConfig
from configs.wire import CheckCount, FailureCase, SourceCount
from tasks.get_data.all_rows import AllRows, Mask, Positions, source_index
from tasks.get_data.duplicates import Repeats
from tasks.rows.invalid import InvalidRowsError, describe_invalid
from tasks.rows.quarantine import MAX_SHOWN_FAILURES, VALUE_CHARACTERS, shown_case

_NAMED_ROWS = 5


class _MergeFailures(NamedTuple):
    """Rows that fail a check of the merge. `originals` are the rows that they repeat; their ids complete `reason`."""

    check: str
    reason: str
    positions: Positions
    originals: Positions | None


@dataclass
class RemovedRows:
    """The rows to remove: `quarantined` ones fail a check, and `repeated` ones are duplicates or leaks."""

    config: DataConfig
    rows: AllRows
    quarantined: Mask = field(init=False)
    repeated: Mask = field(init=False)

    def __post_init__(self) -> None:
        checks = self.config.checks
        self.policies = checks.model_dump() | {"contamination": self.config.contamination_policy, "format": "fail"}
        self.policies |= dict.fromkeys(ToleranceConfig.model_fields, "mend")
        self.quarantined = np.zeros(len(self.rows), dtype=bool)
        self.repeated = np.zeros(len(self.rows), dtype=bool)
        self._invalid = np.zeros(len(self.rows), dtype=bool)
        self._conflicts = np.empty(0, dtype=np.int64)
        self._merge_failures: list[_MergeFailures] = []
        for start, shard in zip(self.rows.starts.tolist(), self.rows.shards, strict=False):
            for failure in shard.failures():
                if failure["position"] >= 0:
                    self.quarantined[start + failure["position"]] = True
                    self._invalid[start + failure["position"]] |= self.policies[failure["check"]] == "fail"

    def add_conflicts(self, positions: Positions) -> None:
        """Record rows that share a prompt but have different completions."""
        self._conflicts = positions
        if self.config.checks.conflict != "warn":
            self.quarantined[positions] = True
            self._invalid[positions] |= self.config.checks.conflict == "fail"
            reason = "differs from that of another row with the same prompt"
            self._merge_failures.append(_MergeFailures("conflict", reason, positions, None))

    def add_repeats(self, repeats: Repeats) -> None:
        """Record rows that repeat others."""
        self.repeated[repeats.positions] = True
        self._merge_failures.append(_MergeFailures(*repeats))

    def num_invalid(self) -> int:
        """Return the number of rows that count towards `data.max_invalid_rows` so far."""
        return sum(shard.summary["invalid"] for shard in self.rows.shards) + int(self._invalid.sum())

    def check_invalid_rows(self) -> None:
        """Raise `InvalidRowsError` if more rows are invalid than the config tolerates."""
        num_invalid = self.num_invalid()
        if num_invalid > self.config.max_invalid_rows:
            invalid = (failure for failure in self.failures() if self.policies[failure["check"]] == "fail")
            first = [shown_case(failure) for failure in islice(invalid, MAX_SHOWN_FAILURES)]
            raise InvalidRowsError(describe_invalid(first, num_invalid, self.config.max_invalid_rows), first)

    def failures(self) -> Iterator[dict[str, Any]]:
        """Yield all failure cases, as the columns of `FailureCase`, in the order in which the rows were read."""
        for start, shard in zip(self.rows.starts.tolist(), self.rows.shards, strict=False):
            of_merge = (self._cases(failures, start, start + len(shard)) for failures in self._merge_failures)
            for failure in heapq.merge(shard.failures(), *of_merge, key=lambda failure: failure["read_index"]):
                yield {name: failure[name] for name in FailureCase.model_fields}

    def _cases(self, failures: _MergeFailures, start: int, end: int) -> Iterator[dict[str, Any]]:
        """Yield the failure cases of the rows at positions in [start, end)."""
        low, high = np.searchsorted(failures.positions, [start, end])
        for index in range(int(low), int(high)):
            position = int(failures.positions[index])
            original = None if failures.originals is None else self.rows.row(int(failures.originals[index]))
            yield {
                **self.rows.row(position),
                "check": failures.check,
                "column": "completion" if original is None else "(row)",
                "reason": failures.reason if original is None else f"{failures.reason} {original['row_id']}",
                "value": self.rows.text(position)[:VALUE_CHARACTERS],
            }

    def check_counts(self) -> list[CheckCount]:
        """Return how many rows fail each check, whatever its policy."""
        num_rows: Counter[str] = Counter()
        first_rows: dict[str, list[str]] = {}
        for shard in self.rows.shards:
            for check, in_shard in shard.summary["checks"].items():
                num_rows[check] += in_shard["rows"]
                first_rows.setdefault(check, []).extend(in_shard["first"])
        for check, positions in (("conflict", self._conflicts), ("leak", np.flatnonzero(self._leaked()))):
            if len(positions):
                num_rows[check] = len(positions)
                first_rows[check] = self.rows.row_ids(positions[:_NAMED_ROWS].tolist())
        return [
            CheckCount(
                check=check,
                policy=self.policies.get(check, "quarantine"),
                rows=num_rows[check],
                first_rows=first_rows[check][:_NAMED_ROWS],
            )
            for check in sorted(num_rows)
        ]

    def _leaked(self) -> Mask:
        leaked = np.zeros(len(self.rows), dtype=bool)
        for failures in self._merge_failures:
            leaked[failures.positions] |= failures.check == "leak"
        return leaked

    def source_counts(self, labels: list[str], kept: Mask) -> list[SourceCount]:
        """Return for each source, then for each evaluation set, how many of its rows were kept and removed."""
        quarantined = self.quarantined | self._leaked()
        counts = []
        for number, source in enumerate([*self.config.sources, *self.config.evaluation]):
            from_source = self.rows.sources == number
            shards = [s.summary for s in self.rows.shards if source_index(self.config, s.summary) == number]
            count = SourceCount(
                source=labels[number],
                format=shards[0]["format"],
                read=sum(summary["read"] for summary in shards),
                kept=int((from_source & kept).sum()),
                quarantined=sum(summary["invalid"] for summary in shards) + int((from_source & quarantined).sum()),
                deduplicated=int((from_source & self.repeated & ~quarantined).sum()),
                weight=source.weight,
                role=_role(shards) if number < len(self.config.sources) else "evaluation",
            )
            assert count.read == count.kept + count.quarantined + count.deduplicated, count
            counts.append(count)
        return counts


def _role(shards: list[dict[str, Any]]) -> str:
    """Return the role of a source from those of its shards; files of one source may have two."""
    roles = {str(summary["role"]) for summary in shards}
    return roles.pop() if len(roles) == 1 else "train and test"

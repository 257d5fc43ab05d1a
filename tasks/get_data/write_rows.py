"""Write the tables of a run as Parquet files whose bytes depend on their rows alone, and count while writing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from configs.objectives import OBJECTIVES
from configs.wire import Balance, FailureCase, Sample, Share
from tasks.get_data.all_rows import AllRows, Mask, Positions
from tasks.get_data.balance import CompletionCounts, LabelCounts, LanguageCounts
from tasks.get_data.shard_files import CANONICAL_COLUMNS
from tasks.get_data.system_prompts import SystemPrompts

SPLIT_SCHEMA = pa.schema([(name, pa.string()) for name in [*CANONICAL_COLUMNS, "dataset"]])
QUARANTINE_SCHEMA = pa.schema(
    [(name, pa.int64() if name == "row" else pa.string()) for name in FailureCase.model_fields]
)
_GROUP_ROWS = 5000
_NUM_SAMPLES = 5
SHOWN_FAILURES = 1000
_SHOWN_CHARACTERS = 600


class Written(NamedTuple):
    """What was seen of the rows while they were written."""

    samples: list[Sample]
    balance: Balance
    system_warnings: list[str]
    warnings: list[str]


class Quarantined(NamedTuple):
    """How many failure cases there are, and the first 1,000 of them, their values shortened to 600 characters."""

    number: int
    first: list[FailureCase]


def write_splits(
    rows: AllRows, copies: Positions, is_test: Mask, dataset_names: Sequence[str], directory: Path
) -> Written:
    """Write `train.parquet`, each row `copies` times, and `test.parquet`, the held-out rows.

    Column `dataset` is empty in training rows; in held-out ones it is that of `dataset_names` of their source:
    `held-out`, or the name of the evaluation set.
    """
    seen = _Seen()
    train, test = (_GroupWriter(directory / name, SPLIT_SCHEMA) for name in ("train.parquet", "test.parquet"))
    for start, batch in rows.batches():
        places = slice(start, start + batch.num_rows)
        repeated = np.repeat(np.arange(batch.num_rows), copies[places])
        train.add(_table(batch, repeated, [""] * len(repeated)))
        held_out = np.flatnonzero(is_test[places])
        names = [dataset_names[source] for source in rows.sources[places][held_out].tolist()]
        test.add(_table(batch, held_out, names))
        own = (copies[places] > 0) | (is_test[places] & (rows.roles[places] != "evaluation"))
        seen.add(batch.take(pa.array(np.flatnonzero(own))), batch.take(pa.array(repeated[:_NUM_SAMPLES])))
    train.close()
    test.close()
    return seen.written()


class _Seen:
    """Samples and balance of the rows of the sources, counted while they are written."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._systems = SystemPrompts()
        self._kinds: Counter[str] = Counter()
        self._languages, self._labels, self._completions = LanguageCounts(), LabelCounts(), CompletionCounts()

    def add(self, kept: pa.RecordBatch, training: pa.RecordBatch) -> None:
        """Count the rows that are kept, and sample those that are trained on."""
        for row in training.slice(0, _NUM_SAMPLES - len(self._samples)).to_pylist():
            self._samples.append(Sample(row_id=row["row_id"], prompt=row["prompt"], completion=row["completion"]))
        columns = {name: kept[name].to_pylist() for name in CANONICAL_COLUMNS}
        self._kinds.update(columns["kind"])
        contents = []
        for kind, prompt, completion, messages in zip(
            *(columns[name] for name in ("kind", "prompt", "completion", "messages")), strict=True
        ):
            if kind == "messages":
                turns = json.loads(messages)
                self._systems.add(str(turns[0].get("content")) if turns[0]["role"] == "system" else None)
                contents.append("\n".join(str(turn.get("content") or "") for turn in turns))
            else:
                contents.append(f"{prompt}\n{completion}")
        self._languages.add(contents, columns["row_id"])
        self._labels.add(columns["label"])
        self._completions.add(
            [text for text, kind in zip(columns["completion"], columns["kind"], strict=True) if kind == "pair"]
        )

    def written(self) -> Written:
        """Return what was seen."""
        balance = Balance(
            languages=_shares(self._languages.counts()),
            language_rows=self._languages.num_looked_at,
            labels=_shares(self._labels.counts()),
            completions=_shares((text[:_SHOWN_CHARACTERS], rows) for text, rows in self._completions.counts()),
        )
        kinds = ", ".join(f"{rows} {kind}" for kind, rows in self._kinds.most_common())
        together = any(set(rules.row_kinds) >= set(self._kinds) for rules in OBJECTIVES.values())
        warnings = [] if together else [f"no objective takes all of these kinds of rows: {kinds}"]
        warnings += [*self._languages.warnings(), *self._labels.warnings(), *self._completions.warnings()]
        return Written(self._samples, balance, self._systems.warnings(), warnings)


def _shares(counts: Iterable[tuple[str, int]]) -> list[Share]:
    return [Share(name=name, rows=rows) for name, rows in counts]


def _table(batch: pa.RecordBatch, places: Positions, names: Sequence[str]) -> pa.Table:
    taken = batch.select(CANONICAL_COLUMNS).take(pa.array(places))
    return pa.Table.from_arrays([*taken.columns, pa.array(names, pa.string())], schema=SPLIT_SCHEMA)


def write_quarantine(failures: Iterator[Mapping[str, Any]], directory: Path) -> Quarantined:
    """Write `quarantine.parquet`: one line for each failure case."""
    writer = _GroupWriter(directory / "quarantine.parquet", QUARANTINE_SCHEMA)
    number = 0
    first: list[FailureCase] = []
    batch: list[Mapping[str, Any]] = []
    for failure in failures:
        number += 1
        if len(first) < SHOWN_FAILURES:
            first.append(shown_case(failure))
        batch.append(failure)
        if len(batch) == _GROUP_ROWS:
            writer.add(pa.Table.from_pylist(batch, QUARANTINE_SCHEMA))
            batch = []
    writer.add(pa.Table.from_pylist(batch, QUARANTINE_SCHEMA))
    writer.close()
    return Quarantined(number, first)


def shown_case(failure: Mapping[str, Any]) -> FailureCase:
    """Return a failure case for a report: cut to 600 characters, since it travels as a value and not as a file."""
    value = failure["value"]
    more = " …" if len(value) > _SHOWN_CHARACTERS else ""
    return FailureCase(**{**failure, "value": value[:_SHOWN_CHARACTERS] + more})


class _GroupWriter:
    """Writes row groups of one size, whatever the sizes of the tables it is given."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._writer = pq.ParquetWriter(path, schema, compression="zstd")
        self._waiting: list[pa.Table] = []
        self._num_waiting = 0

    def add(self, table: pa.Table) -> None:
        """Append the rows of `table`."""
        self._waiting.append(table)
        self._num_waiting += table.num_rows
        while self._num_waiting >= _GROUP_ROWS:
            together = pa.concat_tables(self._waiting)
            self._write(together.slice(0, _GROUP_ROWS))
            self._waiting = [together.slice(_GROUP_ROWS)]
            self._num_waiting -= _GROUP_ROWS

    def close(self) -> None:
        """Write what is left."""
        if self._num_waiting:
            self._write(pa.concat_tables(self._waiting))
        self._writer.close()

    def _write(self, table: pa.Table) -> None:
        self._writer.write_table(table.combine_chunks(), row_group_size=_GROUP_ROWS)

"""Write the rows of a run as Parquet files whose bytes depend on the rows alone, and count the rows on the way."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from configs.objectives import OBJECTIVES
from configs.wire import Balance, Sample, Share
from tasks.files.grouped_tables import GroupWriter
from tasks.get_data.all_rows import AllRows, Mask, Positions
from tasks.get_data.balance import CompletionCounts, LabelCounts, LanguageCounts
from tasks.get_data.hashed_texts import Digests
from tasks.get_data.system_prompts import SystemPrompts
from tasks.rows.formats import CANONICAL_COLUMNS

SPLIT_SCHEMA = pa.schema([(name, pa.string()) for name in [*CANONICAL_COLUMNS, "dataset", "group"]])
_NUM_SAMPLES = 5
_SHOWN_CHARACTERS = 600


class SplitSummary(NamedTuple):
    """Samples of the training rows, the balance of the rows of the sources, and warnings about them."""

    samples: list[Sample]
    balance: Balance
    system_warnings: list[str]
    warnings: list[str]


def write_splits(
    rows: AllRows, copies: Positions, is_test: Mask, dataset_names: Sequence[str], directory: Path
) -> SplitSummary:
    """Write `train.parquet`, each row `copies` times, and `test.parquet`, the held-out rows.

    Column `dataset` is empty in training rows. In held-out rows it is the name of their source in `dataset_names`:
    `held-out`, or the name of the evaluation set. Column `group` is the first 16 hexadecimal digits of the hash of the
    row's `data.group_by` value, which the column must not show, and empty where the row has none.
    """
    counter = _RowCounter()
    train, test = (GroupWriter(directory / name, SPLIT_SCHEMA) for name in ("train.parquet", "test.parquet"))
    for start, batch in rows.batches():
        in_batch = slice(start, start + batch.num_rows)
        training = np.repeat(np.arange(batch.num_rows), copies[in_batch])
        groups = _group_names(rows.digests["group"][in_batch])
        train.add(_table(batch, training, [""] * len(training), groups))
        held_out = np.flatnonzero(is_test[in_batch])
        names = [dataset_names[source] for source in rows.sources[in_batch][held_out].tolist()]
        test.add(_table(batch, held_out, names, groups))
        from_sources = (copies[in_batch] > 0) | (is_test[in_batch] & (rows.roles[in_batch] != "evaluation"))
        counter.add(batch.take(pa.array(np.flatnonzero(from_sources))), batch.take(pa.array(training[:_NUM_SAMPLES])))
    train.close()
    test.close()
    return counter.summary()


class _RowCounter:
    """Counts the rows of the sources and takes samples while the rows are written."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._system_prompts = SystemPrompts()
        self._kinds: Counter[str] = Counter()
        self._languages, self._labels, self._completions = LanguageCounts(), LabelCounts(), CompletionCounts()

    def add(self, kept: pa.RecordBatch, training: pa.RecordBatch) -> None:
        """Count the `kept` rows, and take samples from the `training` rows."""
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
                self._system_prompts.add(str(turns[0].get("content")) if turns[0]["role"] == "system" else None)
                contents.append("\n".join(str(turn.get("content") or "") for turn in turns))
            else:
                contents.append(f"{prompt}\n{completion}")
        self._languages.add(contents, columns["row_id"])
        self._labels.add(columns["label"])
        self._completions.add(
            [text for text, kind in zip(columns["completion"], columns["kind"], strict=True) if kind == "pair"]
        )

    def summary(self) -> SplitSummary:
        """Return the samples, the balance and the warnings."""
        balance = Balance(
            languages=_shares(self._languages.counts()),
            language_rows=self._languages.num_sampled,
            labels=_shares(self._labels.counts()),
            completions=_shares((text[:_SHOWN_CHARACTERS], rows) for text, rows in self._completions.counts()),
        )
        kinds = ", ".join(f"{rows} {kind}" for kind, rows in self._kinds.most_common())
        fits_objective = any(set(self._kinds) <= set(rules.row_kinds) for rules in OBJECTIVES.values())
        warnings = [] if fits_objective else [f"no objective takes all of these kinds of rows: {kinds}"]
        warnings += [*self._languages.warnings(), *self._labels.warnings(), *self._completions.warnings()]
        return SplitSummary(self._samples, balance, self._system_prompts.warnings(), warnings)


def _shares(counts: Iterable[tuple[str, int]]) -> list[Share]:
    return [Share(name=name, rows=rows) for name, rows in counts]


def _group_names(digests: Digests) -> pa.Array:
    """Return the first 64 of the 128 bits of each digest, in hexadecimal digits; empty for a digest of 0."""
    return pa.array([f"{high:016x}" if high or low else "" for high, low in digests.tolist()], pa.string())


def _table(batch: pa.RecordBatch, indices: Positions, names: Sequence[str], groups: pa.Array) -> pa.Table:
    taken = pa.array(indices)
    rows = batch.select(CANONICAL_COLUMNS).take(taken)
    return pa.Table.from_arrays([*rows.columns, pa.array(names, pa.string()), groups.take(taken)], schema=SPLIT_SCHEMA)

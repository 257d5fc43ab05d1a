"""Runs of one config with several seeds: what every measure gained, by the chance of both rows and seeds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations

import numpy as np
import pyarrow as pa

from configs.errors import ArtifactError
from configs.printable import one_line
from configs.wire_evidence import Difference, Verdict
from tasks.evidence.differences import RowArrays
from tasks.evidence.joined import table_of
from tasks.evidence.runs import FinishedRun
from tasks.evidence.seeds import MeasureOverSeeds, RepeatedRuns, over_seeds
from tasks.evidence.table import aligned, groups_of, measures_in, rows_of, values_of
from tasks.files.run_record import differing_settings, seeds
from tasks.gate.compare import CHANCE, arrays, of_chance
from tasks.gate.words import NOTHING_TELLS

_ROW = ("row_id", "prompt", "expected")


def compare_seeds(runs: Sequence[FinishedRun]) -> RepeatedRuns:
    """Return every measure of the tuned model over `runs`, with its gain over the model that training began with.

    Raises:
        ArtifactError: there are fewer than two runs, two have the same seeds, or their held-out rows are not the same.
    """
    if len(runs) < 2:
        raise ArtifactError(f"{len(runs)} run shows no spread; name the folders of 2 or more, each of another seed")
    _check_seeds(runs)
    for other in runs[1:]:
        _check_rows(runs[0], other)
    asked = _measures(runs[0])
    tables: dict[tuple[int, str], pa.Table] = {
        (number, model): table_of(run.rows, model)
        for number, run in enumerate(runs)
        for model in {model for found in asked for model in (found.model, found.versus)} & set(run.models)
    }
    measures, left_out = [], []
    for found in asked:
        over = _over_seeds(found, tables, len(runs))
        if isinstance(over, str):
            left_out.append(f"{found.shown.title} on {found.set}: {over}")
        else:
            measures.append(over)
    return RepeatedRuns(
        folders=tuple(str(run.folder) for run in runs),
        seeds=tuple(seeds(run.settings) for run in runs),
        differing=differing_settings([{**run.settings, "revision": run.revisions} for run in runs]),
        rows=rows_of(runs[0].rows).num_rows,
        measures=tuple(measures),
        decides=bool(measures) and measures[0].difference is _deciding(runs[0].verdict),
        left_out=tuple(left_out),
    )


def _check_seeds(runs: Sequence[FinishedRun]) -> None:
    for first, second in combinations(runs, 2):
        own = seeds(first.settings)
        if own == seeds(second.settings):
            words = ", ".join(f"{one_line(path)}={one_line(value)}" for path, value in own.items()) or "none"
            raise ArtifactError(
                f"{one_line(first.folder)} and {one_line(second.folder)} have the same seeds ({words}), which show no "
                "spread; name runs of other seeds"
            )


def _check_rows(first: FinishedRun, other: FinishedRun) -> None:
    """Refuse runs whose held-out rows differ: then the seeds are not all that differs."""
    rows, others = (
        set(zip(*(rows_of(run.rows)[name].to_pylist() for name in _ROW), strict=True)) for run in (first, other)
    )
    if rows != others:
        raise ArtifactError(
            f"{one_line(other.folder)} has other held-out rows than {one_line(first.folder)}: {len(rows ^ others):,} "
            f"of {len(rows | others):,} are not in both. Compare runs of the same data and data.seed; change only "
            "train.seed"
        )


def _deciding(verdict: Verdict) -> Difference | None:
    """Return the difference of the measure that decides, which is the first; None where nothing decides."""
    return None if verdict.headline.startswith(NOTHING_TELLS) else next(iter(verdict.differences), None)


def _measures(run: FinishedRun) -> list[Difference]:
    """Return the differences of the judged model to the one that training began with, and to chance, in their order."""
    return [
        found
        for found in run.verdict.differences
        if found.model == run.candidate and found.versus in (run.start, CHANCE)
    ]


def _over_seeds(found: Difference, tables: Mapping[tuple[int, str], pa.Table], number: int) -> MeasureOverSeeds | str:
    """Return a measure of all runs, or in words why it is not compared."""
    runs: list[tuple[RowArrays, RowArrays]] = []
    first: pa.Table | None = None
    for run in range(number):
        own = [tables.get((run, model)) for model in (found.model, found.versus) if model != CHANCE]
        pair = [rows_of(table, found.set) for table in own if table is not None]
        if len(pair) < len(own) or any(found.measure not in measures_in(table) for table in pair):
            return f"run {run + 1} does not have it"
        first = pair[0] if first is None else first
        same = [aligned(first, table)[1] for table in pair]
        if any(table.num_rows != first.num_rows for table in (*pair, *same)):
            return f"run {run + 1} has other rows"
        after = values_of(same[0], found.measure)
        before = of_chance(after) if found.versus == CHANCE else values_of(same[1], found.measure)
        runs.append((arrays(before), arrays(after)))
    assert first is not None, "there are two runs or more"
    if len({(table.reduction, table.sums.shape) for pair in runs for table in pair}) > 1:
        return "it is added up in other ways in the runs"
    result = over_seeds(
        runs,
        groups=groups_of(first),
        lower_is_better=found.lower_is_better,
        largest=1.0 if found.shown.is_share else np.inf,
    )
    return "no row counts in all runs" if result is None else MeasureOverSeeds(found, result)

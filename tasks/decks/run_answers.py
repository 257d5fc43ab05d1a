"""The answers of a finished run for the terminal: of the tuned model and the one before it, right or wrong."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from configs.errors import ArtifactError, either
from configs.measures import DEGENERATE, MEASURES, OF_ANSWERS
from configs.printable import one_line
from configs.wire import HELD_OUT
from tasks.decks.answers import ComparedAnswer, answers_text
from tasks.decks.scores import compared_answers
from tasks.evidence.joined import table_of
from tasks.evidence.runs import FinishedRun
from tasks.evidence.table import datasets, judging_measure, measures_in, predictions_of, rows_of

Shown = Literal["all", "wrong", "right", "changed"]
SHOWN: tuple[Shown, ...] = get_args(Shown)
_LEGEND = "[-what the expected answer has and this one lacks-] {+what it has instead, or too much+}"


def run_answers_text(
    run: FinishedRun,
    show: Shown = "all",
    limit: int = 10,
    model: str | None = None,
    before: str | None = None,
    dataset: str = HELD_OUT,
) -> str:
    """Return at most `limit` rows of a set, with the answers of `before` and `model`, under a line with all counts.

    `model` is by default the one that was judged, and `before` the one that training began with. `show` leaves only
    wrong or right answers of `model`, or those that training made right or wrong; of all, wrong ones come first.

    Raises:
        ArtifactError: the run has no such model or set, or no answers of both models to it.
    """
    after_name, before_name = model or run.candidate, before or run.start or run.candidate
    for option, name in (("--model", after_name), ("--before", before_name)):
        if name not in run.models:
            raise ArtifactError(
                f"{option}={one_line(name)} is no model of this run; choose {either(map(one_line, run.models))}"
            )
    sets = datasets(run.rows)
    if dataset not in sets:
        raise ArtifactError(f"--set={one_line(dataset)} is no set of this run; choose {either(map(one_line, sets))}")
    tables = [rows_of(table_of(run.rows, name), dataset) for name in (before_name, after_name)]
    keys = [*run.measures, *(key for key in measures_in(tables[1]) if _says_right(key))]
    key = judging_measure(tables[1], keys)
    rows = compared_answers(*(predictions_of(table, [key] if key else []) for table in tables))
    if not rows:
        raise ArtifactError(
            f"{one_line(run.folder)} has no answers of both {one_line(before_name)} and {one_line(after_name)} on "
            f"{one_line(dataset)}; evaluate.generate_rows says how many rows are answered"
        )
    chosen = [row for row in rows if show in row.kinds]
    title = None if key is None else MEASURES[key].title if key in MEASURES else key.replace("_", " ")
    lines = [
        one_line(f"{len(rows):,} answers to {dataset} rows, before: {before_name}, after: {after_name}."),
        one_line(f"{_counts(rows, title)} {_what_is_shown(chosen, show, limit)}"),
    ]
    return "\n".join([*lines, *([_LEGEND, answers_text(chosen, limit)] if chosen else [])])


def _says_right(key: str) -> bool:
    """Return whether a measure may say that an answer is right; one with a title of the user's is of answers."""
    if key == "exact_match" or key in DEGENERATE:
        return False
    return key not in MEASURES or (key in OF_ANSWERS and MEASURES[key].source == "answers" and _is_good(key))


def _is_good(key: str) -> bool:
    return not MEASURES[key].lower_is_better


def _counts(rows: Sequence[ComparedAnswer], title: str | None) -> str:
    if title is None:
        return "No measure says which are right."
    right, wrong, changed = (sum(kind in row.kinds for row in rows) for kind in ("right", "wrong", "changed"))
    return f"By {title}: {right:,} right, {wrong:,} wrong, {changed:,} changed."


def _what_is_shown(chosen: Sequence[ComparedAnswer], show: Shown, limit: int) -> str:
    if not chosen:
        return f"None is {show}."
    number = min(limit, len(chosen))
    if show == "all":
        return f"{number:,} are shown, wrong ones first:"
    return f"{number:,} of the {len(chosen):,} that are {show} are shown:"

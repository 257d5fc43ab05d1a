"""Runs with several seeds as text for the terminal: which runs, what decides in a sentence, and a table of the rest."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from typing import Any

import numpy as np

from configs.measures import Measure
from configs.printable import one_line
from configs.wire import HELD_OUT
from tasks.decks.evidence import aligned_lines
from tasks.evidence.seeds import MeasureOverSeeds, RepeatedRuns, SeedsResult

_WIDTH = 120
_MEASURE_CHARACTERS = 30
_MOST_RUNS_IN_COLUMNS = 4
_MOST_SETTINGS = 10
_VALUE_CHARACTERS = 40


def seeds_text(runs: RepeatedRuns) -> str:
    """Return what the runs are, how their settings differ, the measure that decides in a sentence, and all measures."""
    lines = [_what(runs)]
    lines += [f"  {number}  {_named(runs, number - 1)}" for number in range(1, len(runs.folders) + 1)]
    for path, values in list(runs.differing.items())[:_MOST_SETTINGS]:
        lines += _wrapped(f"warning: {path} differs too: {', '.join(map(_value, values))}", "  ")
    if len(runs.differing) > _MOST_SETTINGS:
        lines.append(f"  warning: so do {len(runs.differing) - _MOST_SETTINGS:,} more settings")
    if runs.differing:
        lines.append("  The spread below is that of these settings too, and not of the seeds alone.")
    if runs.decides:
        lines += _wrapped(sentence(runs.measures[0]))
    else:
        lines.append("The measure that decides cannot be compared over these runs.")
    if runs.measures:
        lines += aligned_lines([_header(runs), *(_row(found) for found in runs.measures)], 1)
        lines.append("Intervals are 95 %, for other seeds and other rows together (docs/evidence.md).")
    for reason in runs.left_out:
        lines += _wrapped(f"not compared: {reason}")
    return "\n".join(lines)


def sentence(found: MeasureOverSeeds) -> str:
    """Return a measure over seeds in words: its values, its gain with the interval, and whether that is noise."""
    measure, result, seeds = found.difference.shown, found.result, len(found.result.after)
    lowest, highest = (measure.number.format(value) for value in (min(result.after), max(result.after)))
    values = lowest if lowest == highest else f"{lowest} to {highest}"
    if result.is_better:
        verdict = "That is more than the noise of seeds and rows."
    elif result.is_worse:
        verdict = f"The model is worse than {found.difference.versus}, by more than the noise of seeds and rows."
    else:
        verdict = "Other seeds or other rows may as well show no gain."
    return (
        f"{measure.heading} over {seeds} seeds: {values}, mean {measure.number.format(result.mean)}, SD "
        f"{_spread(measure, result)}. The gain over {found.difference.versus} is {_gain(measure, result)}, and "
        f"{result.better} of {seeds} seeds gain. {verdict}"
    )


def _what(runs: RepeatedRuns) -> str:
    settings = "of settings that differ by more than the seed" if runs.differing else "of the same settings"
    return f"{len(runs.folders)} runs {settings}, on the same {runs.rows:,} held-out rows:"


def _named(runs: RepeatedRuns, number: int) -> str:
    """Return a run's folder, with the seeds that are not the same in all runs."""
    own = runs.seeds[number]
    differing = [path for path in own if any(other.get(path) != own[path] for other in runs.seeds)]
    return one_line("  ".join([runs.folders[number], *(f"{path}={_value(own[path])}" for path in differing)]))


def _header(runs: RepeatedRuns) -> list[str]:
    versus = runs.measures[0].difference.versus
    return [
        "measure",
        *_values_of_runs([f"run {number + 1}" for number in range(len(runs.folders))], ["lowest", "highest"]),
        "mean",
        "SD",
        f"gain over {one_line(versus)} (95 % interval)",
        "rows",
    ]


def _row(found: MeasureOverSeeds) -> list[str]:
    measure, result = found.difference.shown, found.result
    on = "" if found.difference.set == HELD_OUT else f" on {found.difference.set}"
    ends = [measure.number.format(value) for value in (min(result.after), max(result.after))]
    return [
        _shortened(one_line(f"{measure.title}{on}"), _MEASURE_CHARACTERS),
        *_values_of_runs([measure.number.format(value) for value in result.after], ends),
        measure.number.format(result.mean),
        _spread(measure, result),
        _gain(measure, result),
        f"{result.rows:,}",
    ]


def _values_of_runs(each: list[str], ends: list[str]) -> list[str]:
    return each if len(each) <= _MOST_RUNS_IN_COLUMNS else ends


def _spread(measure: Measure, result: SeedsResult) -> str:
    return measure.difference(result.deviation).lstrip("+")


def _gain(measure: Measure, result: SeedsResult) -> str:
    if not np.isfinite([result.low, result.high]).all():
        return f"{measure.difference(result.gain)} (unbounded: too few rows)"
    ends = [measure.difference(value).removesuffix(" points") for value in (result.low, result.high)]
    return f"{measure.difference(result.gain)} ({ends[0]} to {ends[1]})"


def _value(value: Any) -> str:
    text = one_line(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
    return _shortened(text, _VALUE_CHARACTERS)


def _shortened(text: str, characters: int) -> str:
    return text if len(text) <= characters else f"{text[: characters - 1]}…"


def _wrapped(text: str, indent: str = "") -> Sequence[str]:
    return textwrap.wrap(
        one_line(text), _WIDTH, initial_indent=indent, subsequent_indent=f"{indent}  ", break_on_hyphens=False
    )

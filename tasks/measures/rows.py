"""Scores rows one at a time, and counts those that have no value."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from configs.schema.measures import MeasureConfig
from tasks.measures.measured import AnsweredRow, RowValues, mean_values


class NotCounted(Exception):
    """The row does not count, for a reason in words that all such rows share; it is not in the denominator."""


class Failed(Exception):
    """The row counts as 0 because its answer could not be scored, for a reason that all such rows share."""


def place_of(config: MeasureConfig, setting: str) -> str:
    """Return how errors name a setting of a measure; a key is a word of letters, digits and `_`."""
    return f"evaluate.measures: {setting} of {config.key}"


def rows_scored(rows: Sequence[AnsweredRow], value: Callable[[AnsweredRow], float]) -> RowValues:
    """Return the measure that `value` computes of each row; it may raise `NotCounted` or `Failed` instead."""
    values = np.zeros(len(rows))
    not_counted, failed = Counter[str](), Counter[str]()
    for number, row in enumerate(rows):
        try:
            values[number] = value(row)
        except NotCounted as reason:
            values[number] = np.nan
            not_counted[str(reason)] += 1
        except Failed as reason:
            failed[str(reason)] += 1
    return mean_values(values, dict(not_counted), dict(failed))

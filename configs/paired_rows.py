"""Whether a difference between two models on the same rows is more than noise: a paired test over the rows."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import fmean, stdev

MOST_ROWS = 2000
"""Most rows of which losses are kept for the test; of more, these many at even distances."""
LEAST = 0.001
"""A mean loss must fall by this much, in nats per token, to be lower at all: less does not show in any table."""
LEVEL = 0.05
"""A difference is seen if the test gives a smaller probability than this."""


def spaced_positions(num_rows: int) -> list[int]:
    """Return the positions of at most `MOST_ROWS` of `num_rows` rows, at even distances."""
    number = min(num_rows, MOST_ROWS)
    return [n * num_rows // number for n in range(number)]


def spaced(values: Sequence[float]) -> list[float]:
    """Return the values of at most `MOST_ROWS` rows at even distances, rounded to a millionth."""
    return [round(float(values[position]), 6) for position in spaced_positions(len(values))]


def p_value(before: Sequence[float], after: Sequence[float]) -> float:
    """Return the probability of a mean decrease as large as that from `before` to `after`, if there were none.

    Student's paired t-test, one-sided; each position is a row. Of fewer than two rows it is 1: nothing can be said.

    Raises:
        ValueError: the rows are not the same number.
    """
    decreases = [b - a for b, a in zip(before, after, strict=True)]
    if len(decreases) < 2:
        return 1.0
    mean, deviation = fmean(decreases), stdev(decreases)
    if deviation == 0:
        return 0.0 if mean > 0 else 1.0
    from scipy.stats import t

    return float(t.sf(mean / (deviation / sqrt(len(decreases))), len(decreases) - 1))


def is_seen(before: Sequence[float], after: Sequence[float]) -> bool:
    """Return whether the losses of rows fell by more than noise."""
    return p_value(before, after) < LEVEL

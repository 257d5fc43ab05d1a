"""What a measure of answers is given, what it returns, and how the values of rows become a score.

A score is always computed from sums over rows. So the scores of any number of shards, and of any resample of the rows,
come from the same function as the score of all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from tasks.measures.reductions import bleu, chrf, macro_f1

_HIGHEST_EXPONENT = 700.0
"""exp() of more than 709 is infinite."""


@dataclass(frozen=True)
class AnsweredRow:
    """A row with the model's answer to its prompt.

    `answer` has neither reasoning nor special tokens, and no white space at its ends; `whole_answer` has the reasoning.
    """

    row_id: str
    prompt: str
    expected: str
    answer: str
    whole_answer: str = ""


@dataclass(frozen=True)
class RowValues:
    """A measure of each row.

    `values` [rows] float64 has one number a row, NaN for a row that does not count: it is not in the denominator.
    `sums` [rows, k] float64 is what is added up over rows, and `reduction` names the function in `REDUCTIONS` that
    makes the score of the sums. `not_counted` says for each reason how many rows do not count; `failed`, how many rows
    count as zero because their answer could not be scored.
    """

    values: np.ndarray
    sums: np.ndarray
    reduction: str = "mean"
    not_counted: dict[str, int] = field(default_factory=dict)
    failed: dict[str, int] = field(default_factory=dict)


def mean_values(
    values: Sequence[float] | np.ndarray,
    not_counted: dict[str, int] | None = None,
    failed: dict[str, int] | None = None,
) -> RowValues:
    """Return a measure whose score is the mean of `values` over the rows that are not NaN."""
    array = np.asarray(values, dtype=np.float64)
    return RowValues(array, sums_of_values(array), "mean", not_counted or {}, failed or {})


def sums_of_values(values: np.ndarray) -> np.ndarray:
    """Return [rows, 2] float64: (value, 1) for each row that counts, and (0, 0) for NaN."""
    counted = np.isfinite(values)
    return np.stack([np.where(counted, values, 0.0), counted.astype(np.float64)], axis=-1)


def _mean(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])


def _exp_mean(sums: np.ndarray) -> np.ndarray:
    return np.exp(np.minimum(_mean(sums), _HIGHEST_EXPONENT))


def _mean_gap(sums: np.ndarray) -> np.ndarray:
    return _mean(sums[..., :2]) - _mean(sums[..., 2:])


REDUCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "mean": _mean,
    "exp_mean": _exp_mean,
    "mean_gap": _mean_gap,
    "macro_f1": macro_f1,
    "bleu": bleu,
    "chrf": chrf,
}
"""Functions from sums [..., k] to scores [...]; NaN where nothing counts. `mean` is sums[..., 0] / sums[..., 1];
`mean_gap` is the mean of the first two sums minus that of the last two."""


def score(sums: np.ndarray, reduction: str) -> float | None:
    """Return the score of the rows whose `sums` [k] are given; None where nothing counts."""
    value = float(REDUCTIONS[reduction](np.asarray(sums, dtype=np.float64)))
    return None if np.isnan(value) else value

"""Measures of preferences: whether a model prefers the answers that people preferred."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from tasks.measures.measured import RowValues, mean_values

CHOSEN, REJECTED = "#chosen", "#rejected"
# relative: so much the same tokens differ in two forward passes
_TIE = 1e-6


def with_preferences(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `rows` with the columns `rejected_ids` and `is_wanted`, which tokens of plain answers may lack."""
    rejected = list(rows.rejected_ids) if "rejected_ids" in rows else [None] * len(rows)
    wanted = rows.is_wanted.astype(bool) if "is_wanted" in rows else True
    lists = [[] if ids is None else list(ids) for ids in rejected]
    return rows.assign(rejected_ids=pd.Series(lists, index=rows.index, dtype=object), is_wanted=wanted)


def values_of_pairs(sums: Sequence[float], pairs: Sequence[tuple[int, int]], num_rows: int) -> dict[str, RowValues]:
    """Return preference accuracy and margin for each pair, at the row of its chosen answer.

    `sums` are the values of answers, and `pairs` (chosen, rejected) positions among them. The accuracy of a pair is 1
    where the chosen answer has the higher value, and 0.5 for a tie; the margin is chosen minus rejected.
    """
    accuracy, margin = np.full(num_rows, np.nan), np.full(num_rows, np.nan)
    for chosen, rejected in pairs:
        accuracy[chosen] = _preferred(sums[chosen], sums[rejected])
        margin[chosen] = sums[chosen] - sums[rejected]
    return {"preference_accuracy": mean_values(accuracy), "preference_margin": mean_values(margin)}


def gap_of_labels(values: np.ndarray, weights: np.ndarray, is_wanted: np.ndarray) -> dict[str, RowValues]:
    """Return the margin of answers with labels: the mean over wanted ones minus that over unwanted ones.

    `values` [rows] are sums over `weights` [rows] tokens or rows each. Nothing where one kind is missing.
    """
    has_weight = weights > 0
    if not (has_weight & is_wanted).any() or not (has_weight & ~is_wanted).any():
        return {}
    sums = np.stack([values, weights], axis=-1)
    both = np.concatenate([sums * is_wanted[:, None], sums * ~is_wanted[:, None]], axis=-1)
    with np.errstate(invalid="ignore", divide="ignore"):
        of_rows = np.where(has_weight, values / weights, np.nan)
    return {"preference_margin": RowValues(of_rows, both, "mean_gap")}


def paired_rows(rows: pd.DataFrame) -> list[tuple[int, int]]:
    """Return (wanted, unwanted) positions of rows that come from one preference row: `x#chosen` and `x#rejected`."""
    rejected = {row_id: position for position, row_id in enumerate(rows.row_id) if row_id.endswith(REJECTED)}
    return [
        (position, rejected[partner])
        for position, row_id in enumerate(rows.row_id)
        if row_id.endswith(CHOSEN) and (partner := row_id.removesuffix(CHOSEN) + REJECTED) in rejected
    ]


def _preferred(chosen: float, rejected: float) -> float:
    if bool(np.isclose(chosen, rejected, rtol=_TIE, atol=_TIE)):
        return 0.5
    return float(chosen > rejected)

"""Measures of preferences: whether a model prefers the answers that people preferred."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean

import numpy as np
import pandas as pd

CHOSEN, REJECTED = "#chosen", "#rejected"
# relative: so much the same tokens differ in two forward passes
_TIE = 1e-6


def with_preferences(rows: pd.DataFrame) -> pd.DataFrame:
    """Return `rows` with the columns `rejected_ids` and `is_wanted`, which tokens of plain answers may lack."""
    rejected = list(rows.rejected_ids) if "rejected_ids" in rows else [None] * len(rows)
    wanted = rows.is_wanted.astype(bool) if "is_wanted" in rows else True
    lists = [[] if ids is None else list(ids) for ids in rejected]
    return rows.assign(rejected_ids=pd.Series(lists, index=rows.index, dtype=object), is_wanted=wanted)


def preference_accuracy(chosen: Sequence[float], rejected: Sequence[float]) -> float | None:
    """Return the share of pairs whose chosen answer has the higher value; ties count half. None without pairs."""
    if not len(chosen):
        return None
    return mean(_preferred(first, second) for first, second in zip(chosen, rejected, strict=True))


def preference_margin(chosen: Sequence[float], rejected: Sequence[float]) -> float | None:
    """Return the mean of chosen minus rejected values; None without pairs."""
    if not len(chosen):
        return None
    return mean(first - second for first, second in zip(chosen, rejected, strict=True))


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

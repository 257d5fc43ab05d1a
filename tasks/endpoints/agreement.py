"""How far judgments agree with one another, from their values alone; None where nothing can be said."""

from __future__ import annotations

import numpy as np


def share_equal(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the share of places at which two arrays [n] have the same value; NaN in either does not count."""
    counted = np.isfinite(first) & np.isfinite(second)
    return float(np.mean(first[counted] == second[counted])) if counted.any() else None


def cohens_kappa(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return Cohen's kappa (1960) of two arrays [n] of categories: (p_o - p_e) / (1 - p_e).

    p_o is the share of equal values; p_e is what it would be by chance, from how often each array has each category.
    NaN in either does not count. None where p_e is 1: all values are of one category.
    """
    counted = np.isfinite(first) & np.isfinite(second)
    first, second = first[counted], second[counted]
    if not first.size:
        return None
    expected = sum(np.mean(first == value) * np.mean(second == value) for value in np.unique(first))
    return None if expected > 1 - 1e-12 else float((np.mean(first == second) - expected) / (1 - expected))


def pairs_of_repeats(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return two arrays: the values of each two repeats of a row, for `values` [rows, repeats]; NaN for no judgment."""
    first, second = np.triu_indices(values.shape[1], k=1)
    return values[:, first].ravel(), values[:, second].ravel()


def mean_difference(first: np.ndarray, second: np.ndarray) -> float | None:
    """Return the mean absolute difference of two arrays [n]; NaN in either does not count."""
    differences = np.abs(first - second)
    counted = np.isfinite(differences)
    return float(differences[counted].mean()) if counted.any() else None


def mean_of_rows(values: np.ndarray) -> np.ndarray:
    """Return the mean [rows] of what is not NaN in `values` [rows, repeats]; NaN where nothing is."""
    counted = np.isfinite(values)
    numbers = counted.sum(axis=1)
    sums = np.where(counted, values, 0.0).sum(axis=1)
    return np.where(numbers > 0, sums / np.maximum(numbers, 1), np.nan)


def majority(values: np.ndarray) -> np.ndarray:
    """Return for `values` [rows, repeats] of -1, 0 and 1 the most frequent [rows].

    0 where no value alone is the most frequent, NaN where all are NaN.
    """
    counts = np.stack([(values == choice).sum(axis=1) for choice in (-1, 0, 1)], axis=1)
    is_most = counts == counts.max(axis=1, keepdims=True)
    alone = is_most.sum(axis=1) == 1
    chosen = np.where(alone, is_most.argmax(axis=1) - 1.0, 0.0)
    return np.where(counts.sum(axis=1) > 0, chosen, np.nan)

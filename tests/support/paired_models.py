"""Rows of two models with a known true difference, as measures give them: for simulations of intervals and tests."""

from __future__ import annotations

import numpy as np

from tasks.evidence.differences import RowArrays, mean_arrays

Pair = tuple[RowArrays, RowArrays, np.ndarray | None]
GROUP = 5


def binary(generator: np.random.Generator, rows: int, wins: float, losses: float) -> Pair:
    """Return rows of 0 and 1; the true difference is `wins` - `losses`, both shares of rows."""
    kind = generator.choice(4, size=rows, p=[wins, losses, 0.3, 0.7 - wins - losses])
    return mean_arrays((kind == 1) | (kind == 2)), mean_arrays((kind == 0) | (kind == 2)), None


def skewed(generator: np.random.Generator, rows: int, fall: float) -> Pair:
    """Return lognormal losses that fall by the share `fall`; the true difference is -`fall` * exp(1/2)."""
    before = generator.lognormal(0.0, 1.0, rows)
    noise = generator.lognormal(-0.005, 0.1, rows)
    return mean_arrays(before), mean_arrays(before * (1 - fall) * noise), None


def by_token(generator: np.random.Generator, rows: int, fall: float) -> Pair:
    """Return losses by token of rows with 1 to some hundred tokens; the true difference is -`fall`."""
    tokens = np.maximum(1.0, generator.lognormal(3.0, 0.8, rows).round())
    loss = generator.lognormal(0.0, 0.5, rows)
    after = loss - fall + generator.normal(0.0, 0.3, rows) * loss
    return (
        RowArrays(loss, np.stack([loss * tokens, tokens], axis=1)),
        RowArrays(after, np.stack([after * tokens, tokens], axis=1)),
        None,
    )


def grouped(generator: np.random.Generator, rows: int, gain: float) -> Pair:
    """Return scores in groups of 5 whose gains correlate by 0.86; the true difference is `gain`."""
    shape = (rows // GROUP, GROUP)
    before = generator.normal(size=shape[:1])[:, None] + generator.normal(size=shape)
    gains = gain + generator.normal(size=shape[:1])[:, None] + 0.4 * generator.normal(size=shape)
    names = np.repeat([f"group {number}" for number in range(shape[0])], GROUP)
    return mean_arrays(before.ravel()), mean_arrays((before + gains).ravel()), names


def grouped_binary(generator: np.random.Generator, rows: int, gain: float) -> Pair:
    """Return 0 and 1 in groups of 5 that share most of their difficulty; with `gain` 0, equal models."""
    shape = (rows // GROUP, GROUP)
    ease = generator.normal(size=shape[:1])[:, None] + 0.5 * generator.normal(size=shape)
    one, other = (0.8 * generator.normal(size=shape[:1])[:, None] + 0.3 * generator.normal(size=shape) for _ in "ab")
    names = np.repeat([f"group {number}" for number in range(shape[0])], GROUP)
    return mean_arrays((ease + one > 0).ravel()), mean_arrays((ease + other + gain > 0).ravel()), names


def sampled_answers(generator: np.random.Generator, rows: int, gain: float) -> Pair:
    """Return shares of 4 sampled answers that are right, as at a temperature; with `gain` 0, one model asked twice."""
    ease = generator.beta(0.5, 0.5, rows)
    before = generator.binomial(4, ease) / 4
    return mean_arrays(before), mean_arrays(generator.binomial(4, np.clip(ease + gain, 0, 1)) / 4), None

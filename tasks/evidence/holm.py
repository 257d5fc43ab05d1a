"""Holm's correction: of several tests at once, that one of equal models is called different in at most 5 % of cases."""

from __future__ import annotations

from collections.abc import Sequence


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the adjusted p-values, in the order given (Holm, Scandinavian Journal of Statistics 6, 1979).

    The i-th smallest of m is multiplied by m - i + 1, is at least the adjusted one before it, and at most 1. Compared
    with 0.05, they reject a true hypothesis among all with a probability of at most 5 %, however the tests depend.

    Raises:
        ValueError: a p-value is not between 0 and 1.
    """
    for p in p_values:
        if not 0.0 <= p <= 1.0:
            raise ValueError(f"p-value {p:g} is not between 0 and 1")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, position in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return adjusted

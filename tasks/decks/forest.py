"""A forest plot: each difference with its interval on one axis, to the right where the model is better."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from configs.printable import one_line
from configs.wire import HELD_OUT
from configs.wire_evidence import Difference
from tasks.decks.charts import svg

_GOOD, _BAD, _UNCLEAR = "#0a7d38", "#b3261e", "#64748b"
MOST_PLOTTED = 40
"""Differences in the plot; the table has all of them."""
_AXIS = 41
_LABEL_CHARACTERS = 56
_INCHES_A_ROW = 0.4


def render_forest(differences: Sequence[Difference]) -> str:
    """Return the plot as SVG: a panel for shares, in points, and one for each other unit; empty without differences.

    Measures of which less is better are turned round, so that right is better everywhere, and their labels say so. An
    interval without bounds is a dotted line. At most 40 differences, those of held-out rows first.
    """
    panels = _panels(differences)
    if not panels:
        return ""
    heights = [_INCHES_A_ROW * len(rows) + 0.75 for rows in panels.values()]
    figure = Figure(figsize=(8.0, sum(heights)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (unit, rows) in zip(axes, panels.items(), strict=True):
        _draw(axis, unit, rows[::-1])
    return svg(figure, "forest")


def _draw(axis: Axes, unit: str, rows: Sequence[Difference]) -> None:
    """Draw the differences of one unit, from the bottom up."""
    scale = 100 if unit == "points" else 1
    for place, found in enumerate(rows):
        low, high = found.gain_interval
        colour = _colour(found)
        if math.isfinite(low) and math.isfinite(high):
            axis.plot([low * scale, high * scale], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
        else:
            axis.axhline(place, color=colour, linewidth=1, linestyle=":")
        axis.plot([found.gain * scale], [place], marker="s", markersize=5, color=colour)
    axis.axvline(0, color="#94a3b8", linewidth=1)
    # a set's name may hold dollar signs, between which matplotlib would read formulas
    axis.set_yticks(range(len(rows)), ["\n".join(_label(found)) for found in rows], fontsize=8, parse_math=False)
    axis.set_ylim(-0.7, len(rows) - 0.3)
    axis.set_xlabel(f"worse  <  {unit}  >  better", fontsize=9)
    axis.spines[["top", "right", "left"]].set_visible(False)
    axis.grid(axis="x", alpha=0.25)
    axis.tick_params(axis="y", length=0)
    axis.tick_params(axis="x", labelsize=8)


def forest_text(differences: Sequence[Difference]) -> str:
    """Return the plot for a terminal: a line each, with a 41-character axis that has zero in its middle."""
    lines = []
    panels = _panels(differences)
    labels = {id(found): ": ".join(_label(found)) for rows in panels.values() for found in rows}
    width = max(map(len, labels.values()), default=0)
    for unit, rows in panels.items():
        scale = 100 if unit == "points" else 1
        ends = [abs(end) for found in rows for end in (*found.gain_interval, found.gain) if math.isfinite(end)]
        reach = max(ends, default=0.0) or 1.0
        shown = f"{reach * scale:.3g}"
        lines.append(f"{'':{width}}  {'-' + shown:<{_AXIS // 2}}0{shown:>{_AXIS // 2}}  {unit}, right is better")
        lines += [f"{labels[id(found)]:{width}}  {_bar(found, reach)}".rstrip() for found in rows]
    return "\n".join(lines)


def _panels(differences: Sequence[Difference]) -> dict[str, list[Difference]]:
    """Return the differences by their unit, shares first."""
    ordered = sorted(differences, key=lambda found: found.set != HELD_OUT)[:MOST_PLOTTED]
    panels: dict[str, list[Difference]] = {}
    for found in sorted(ordered, key=lambda found: not found.shown.is_share):
        unit = "points" if found.shown.is_share else found.shown.chart_unit or found.shown.title
        panels.setdefault(unit, []).append(found)
    return panels


def _label(found: Difference) -> tuple[str, str]:
    """Return what was measured and on which set, and the two models; together at most 56 characters.

    What is too long is cut within the set's name: neither models nor direction are lost.
    """
    models = one_line(f"{found.model} vs {found.versus}")
    direction = " (lower is better)" if found.lower_is_better else ""
    room = max(12, _LABEL_CHARACTERS - len(models) - len(direction) - 2)
    on = "" if found.set == HELD_OUT else f" on {found.set}"
    measured = one_line(f"{found.shown.title}{on}")
    cut = measured if len(measured) <= room else f"{measured[: room - 1]}…"
    return f"{cut}{direction}", models


def _colour(found: Difference) -> str:
    low, high = found.gain_interval
    return _GOOD if low > 0 else _BAD if high < 0 else _UNCLEAR


def _bar(found: Difference, reach: float) -> str:
    """Return the axis as text: `-` over the interval, `o` at the difference, `|` at zero, `.` without bounds."""
    half = _AXIS // 2

    def place(value: float) -> int:
        return half + round(max(-1.0, min(1.0, value / reach)) * half)

    cells = [" "] * _AXIS
    low, high = (place(end) for end in found.gain_interval)
    sign = "-" if all(map(math.isfinite, found.gain_interval)) else "."
    cells[low : high + 1] = sign * (high + 1 - low)
    cells[half] = "|"
    cells[place(found.gain)] = "o"
    return "".join(cells)

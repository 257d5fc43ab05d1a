"""A forest plot: each difference with its interval on one axis, to the right where the model is better."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.figure import Figure

from configs.printable import one_line
from configs.wire import HELD_OUT
from configs.wire_evidence import Difference
from tasks.decks.charts import svg

_GOOD, _BAD, _UNCLEAR = "#0a7d38", "#b3261e", "#64748b"
_MOST_ROWS = 40
_AXIS = 41
_LABEL_CHARACTERS = 44


def render_forest(differences: Sequence[Difference]) -> str:
    """Return the plot as SVG: a panel for shares, in points, and one for each other unit; empty without differences.

    Losses are turned round, so that right is better everywhere. At most 40 differences, those of held-out rows first.
    """
    panels = _panels(differences)
    if not panels:
        return ""
    heights = [0.3 * len(rows) + 0.9 for rows in panels.values()]
    figure = Figure(figsize=(8.6, sum(heights)))
    axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, (unit, rows) in zip(axes, panels.items(), strict=True):
        scale = 100 if unit == "points" else 1
        for place, found in enumerate(reversed(rows)):
            low, high = found.gain_interval
            colour = _colour(found)
            if math.isfinite(low) and math.isfinite(high):
                axis.plot([low * scale, high * scale], [place, place], color=colour, linewidth=2, solid_capstyle="butt")
            axis.plot([found.gain * scale], [place], marker="s", markersize=5, color=colour)
        axis.axvline(0, color="#94a3b8", linewidth=1)
        axis.set_yticks(range(len(rows)), [_label(found) for found in reversed(rows)], fontsize=8)
        axis.set_ylim(-0.7, len(rows) - 0.3)
        axis.set_xlabel(f"worse  <  {unit}  >  better", fontsize=9)
        axis.spines[["top", "right", "left"]].set_visible(False)
        axis.grid(axis="x", alpha=0.25)
        axis.tick_params(axis="y", length=0)
    figure.tight_layout()
    return svg(figure, "forest")


def forest_text(differences: Sequence[Difference]) -> str:
    """Return the plot for a terminal: a line each, with a 41-character axis that has zero in its middle."""
    lines = []
    width = max((len(_label(found)) for found in differences), default=0)
    for unit, rows in _panels(differences).items():
        scale = 100 if unit == "points" else 1
        ends = [abs(end) for found in rows for end in (*found.gain_interval, found.gain) if math.isfinite(end)]
        reach = max(ends, default=0.0) or 1.0
        shown = f"{reach * scale:.3g}"
        lines.append(f"{'':{width}}  {'-' + shown:<{_AXIS // 2}}0{shown:>{_AXIS // 2}}  {unit}, right is better")
        lines += [f"{_label(found):{width}}  {_bar(found, reach)}" for found in rows]
    return "\n".join(lines)


def _panels(differences: Sequence[Difference]) -> dict[str, list[Difference]]:
    """Return the differences by their unit, shares first."""
    ordered = sorted(differences, key=lambda found: found.set != HELD_OUT)[:_MOST_ROWS]
    panels: dict[str, list[Difference]] = {}
    for found in sorted(ordered, key=lambda found: not found.shown.is_share):
        unit = "points" if found.shown.is_share else found.shown.chart_unit or found.shown.title
        panels.setdefault(unit, []).append(found)
    return panels


def _label(found: Difference) -> str:
    on = "" if found.set == HELD_OUT else f" on {found.set}"
    text = one_line(f"{found.shown.title}{on}: {found.model} vs {found.versus}")
    return text if len(text) <= _LABEL_CHARACTERS else f"{text[: _LABEL_CHARACTERS - 1]}…"


def _colour(found: Difference) -> str:
    low, high = found.gain_interval
    return _GOOD if low > 0 else _BAD if high < 0 else _UNCLEAR


def _bar(found: Difference, reach: float) -> str:
    """Return the axis as text: `-` over the interval, `o` at the difference, `|` at zero."""
    half = _AXIS // 2

    def place(value: float) -> int:
        return half + round(max(-1.0, min(1.0, value / reach)) * half)

    cells = [" "] * _AXIS
    low, high = (place(end) for end in found.gain_interval)
    cells[low : high + 1] = "-" * (high + 1 - low)
    cells[half] = "|"
    cells[place(found.gain)] = "o"
    return "".join(cells)

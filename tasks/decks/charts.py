"""Charts as inline SVG by matplotlib: deterministic, without scripts. Labels are never content of rows."""

from __future__ import annotations

import io
import math
import re
import warnings
from collections.abc import Mapping, Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

_BLUE, _GREY, _GREEN = "#2563eb", "#94a3b8", "#0a7d38"
_LINE_COLOURS = (_BLUE, "#e0a100", _GREEN, "#9333ea")
_FEW_POINTS = 40
_COLOURS = (_GREY, _BLUE, _GREEN, "#e0a100", "#9333ea")


def svg(figure: Figure, name: str) -> str:
    """Return the figure's SVG element. `name` begins all its ids, so that the charts of one page do not share any."""
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": name, "svg.fonttype": "none"}), warnings.catch_warnings():
        # the reader's own fonts draw the letters
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'id="([^"]+)"', rf'id="{name}-\1"', text)
    return re.sub(r'(href="#|url\(#)', rf"\1{name}-", text)


def _axes(title: str, x_label: str, y_label: str, size: tuple[float, float] = (7.2, 2.8)):  # type: ignore[no-untyped-def]
    figure = Figure(figsize=size)
    axes = figure.subplots()
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.25)
    return figure, axes


def histogram(edges: Sequence[int], counts: Sequence[int], limit: int | None, title: str, x_label: str) -> str:
    """Return a histogram: `counts[i]` rows lie above `edges[i - 1]` and at or below `edges[i]`."""
    figure, axes = _axes(title, x_label, "rows")
    starts = [0, *edges[:-1]]
    axes.bar(starts, counts, width=[e - s for e, s in zip(edges, starts, strict=True)], align="edge", color=_BLUE)
    if limit is not None and edges and limit <= 1.5 * edges[-1]:
        axes.axvline(limit, color="#b3261e", linestyle="--", linewidth=1)
        axes.text(limit, axes.get_ylim()[1], " max_length", color="#b3261e", fontsize=8, va="top")
    return svg(figure, "histogram")


def lines(
    series: Mapping[str, tuple[Sequence[int], Sequence[float]]],
    name: str,
    title: str,
    y_label: str,
    marked_step: int | None = None,
    is_small: bool = False,
) -> str:
    """Return a line chart over optimizer steps.

    `series` maps a label to (steps, values); several get a legend. Values that are not finite leave a gap.
    `marked_step` gets a vertical line, labelled `kept`. Two small charts fit side by side.
    """
    figure, axes = _axes(title, "optimizer step", y_label, (3.9, 2.5) if is_small else (7.2, 2.8))
    for number, (label, (steps, values)) in enumerate(series.items()):
        finite = [v if math.isfinite(v) else math.nan for v in values]
        colour = _LINE_COLOURS[number % len(_LINE_COLOURS)]
        # with few points, show which parts of the line were measured
        marker = "o" if len(steps) <= _FEW_POINTS else ""
        axes.plot(steps, finite, color=colour, linewidth=1.6, marker=marker, markersize=3, label=label)
    if marked_step is not None:
        axes.axvline(marked_step, color=_GREY, linestyle="--", linewidth=1)
        _label_kept(axes, series, marked_step)
    if len(series) > 1:
        axes.legend(frameon=False, fontsize=8)
    return svg(figure, name)


def _label_kept(axes: Axes, series: Mapping[str, tuple[Sequence[int], Sequence[float]]], step: int) -> None:
    """Write `kept` beside the marked step: at the top, or at the bottom where a line passes the top."""
    bottom, top = axes.get_ylim()
    at_step = [v for steps, values in series.values() for s, v in zip(steps, values, strict=True) if s == step]
    is_high = any(value > (bottom + top) / 2 for value in at_step)
    place, side = (bottom, "bottom") if is_high else (top, "top")
    axes.text(step, place, " kept", color="#5b6b7c", fontsize=8, va=side)


def bars(names: Sequence[str], values: Sequence[float], name: str, title: str, y_label: str, text: str) -> str:
    """Return a bar chart of `values`, one bar per name, each labelled in the format `text` (such as `{:.1%}`)."""
    figure, axes = _axes(title, "", y_label, (3.6, 2.6))
    drawn = axes.bar(
        [label.replace("_", "\n") for label in names],
        values,
        color=[_COLOURS[i % len(_COLOURS)] for i in range(len(names))],
        width=0.6,
    )
    axes.bar_label(drawn, labels=[text.format(value) for value in values], fontsize=9, padding=2)
    low, high = min([*values, 0.0]), max([*values, 0.0])
    # room for the labels above the bars, and below negative ones
    axes.set_ylim(low * 1.15, high * 1.15 or (0.0 if low else 1.0))
    if low:
        axes.axhline(0, color=_GREY, linewidth=1)
    axes.tick_params(axis="x", labelsize=8)
    return svg(figure, name)

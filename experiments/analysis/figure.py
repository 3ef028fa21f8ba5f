"""The compute-accuracy figure: accuracy against generated tokens and against total FLOPs, on one scale.

Curves are k of one pool of samples; marks are other strategies as they ran. Colours are after Okabe and Ito, safe
for colour-blind readers; every series also has its own marker or dash, and its name beside it.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from matplotlib import patheffects
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MultipleLocator, NullLocator, PercentFormatter
from matplotlib.transforms import Bbox

from experiments.analysis.tables import si

_INK, _FAINT = "#222222", "#6E6E6E"
_CURVES = {  # colour, line style, marker, text; drawn in this order
    "pass@k": (_FAINT, (0, (4, 2)), "", "coverage (upper bound)"),
    "maj@k": ("#009E73", "-", "^", "maj@k"),
    "weighted@k": ("#D55E00", "-", "s", "weighted@k"),
    "prm@k": ("#0072B2", "-", "o", "prm@k"),
}
_MARKS = (
    (_INK, "D"), ("#A8457D", "P"), ("#B07A00", "X"), ("#2E86AB", "v"), ("#7A4B3A", "*"), (_FAINT, "h"),
    ("#2E86AB", "D"), ("#7A4B3A", "<"), (_INK, "X"), ("#B07A00", ">"), ("#A8457D", "d"), ("#7A4B3A", "P"),
    ("#A8457D", "p"), ("#2E86AB", "X"),
)  # fmt: skip
_MOST_NAMED = 6  # marks with their names beside them; more have a legend
_FONT_SIZE = 12.0


def draw(tidy: pd.DataFrame, *, title: str, subtitle: str) -> Figure:
    """The figure of a tidy frame from `experiments.analysis.curves.curves`, which must not be empty."""
    crowded = tidy[tidy["kind"] == "point"]["series"].nunique() > _MOST_NAMED
    figure = Figure(figsize=(10, 6.3 if crowded else 5.4), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}\n", x=0.012, ha="left", fontsize=_FONT_SIZE + 4, weight="bold", color=_INK)
    figure.text(0.012, 0.927 if crowded else 0.915, subtitle, fontsize=_FONT_SIZE, color=_FAINT)
    costs = [("generated_tokens", "generated tokens per problem")]
    if tidy["total_flops"].gt(0).all():  # else they are not known
        costs.append(("total_flops", "FLOPs per problem, verifier included"))
    panels = figure.subplots(1, len(costs), sharey=True, squeeze=False)[0]
    labels = [_panel(axes, tidy, column, name) for axes, (column, name) in zip(panels, costs, strict=True)]
    if crowded:
        marks = set(tidy[tidy["kind"] == "point"]["series"])
        labels = [[label for label in wanted if label.text not in marks] for wanted in labels]
        handles, names = panels[0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, fontsize=_FONT_SIZE - 2)
    panels[0].set_ylabel("accuracy", color=_INK, fontsize=_FONT_SIZE)
    low, high = tidy["low"].min(), tidy["high"].max()
    panels[0].set_ylim(max(0.0, low - 0.04), min(1.02, high + 0.04))
    panels[0].yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    panels[0].yaxis.set_major_locator(MultipleLocator(0.1 if high - low > 0.25 else 0.05))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # labels are placed in the finished layout
    for axes, wanted in zip(panels, labels, strict=True):
        _place(axes, wanted)
    return figure


class _Label(NamedTuple):
    """A name to be placed beside its series, in data coordinates."""

    text: str
    colour: str
    points: np.ndarray  # (n, 2): where it may stand, best first; the series is the line through them
    bars: list[np.ndarray]  # further lines of the series that nothing should cover


def _panel(axes: Axes, tidy: pd.DataFrame, cost: str, name: str) -> list[_Label]:
    """Draws one panel; returns the labels to place once the layout is known."""
    labels: list[_Label] = []
    curves, points = tidy[tidy["kind"] == "curve"], tidy[tidy["kind"] == "point"]
    for series, (colour, style, marker, text) in _CURVES.items():
        curve = curves[curves["series"] == series].sort_values(cost)
        if curve.empty:
            continue
        if series != "pass@k":
            axes.fill_between(curve[cost], curve["low"], curve["high"], color=colour, alpha=0.13, linewidth=0)
        axes.plot(
            curve[cost], curve["accuracy"], color=colour, linestyle=style, marker=marker, markersize=5, linewidth=2
        )
        labels.append(_Label(text, colour, curve[[cost, "accuracy"]].to_numpy()[::-1], []))
    for index, (strategy, group) in enumerate(points.groupby("series", sort=False)):
        colour, marker = _MARKS[index % len(_MARKS)]
        group = group.sort_values(cost)
        whiskers = [group["accuracy"] - group["low"], group["high"] - group["accuracy"]]
        axes.errorbar(
            group[cost], group["accuracy"], whiskers, color=colour, marker=marker, markersize=9,
            markeredgecolor="white", linestyle=":", linewidth=1.2, ecolor=(colour, 0.45), elinewidth=1.5, zorder=5,
            label=str(strategy),
        )  # fmt: skip
        bars = [np.array([(x, bottom), (x, top)]) for x, bottom, top in group[[cost, "low", "high"]].to_numpy()]
        labels.append(_Label(str(strategy), colour, group[[cost, "accuracy"]].to_numpy()[::-1], bars))
    axes.set_xscale("log", base=2)
    low, high = tidy[cost].min(), tidy[cost].max()
    axes.set_xlim(low / 1.25, high * 1.25)
    axes.xaxis.set_major_locator(FixedLocator(_ticks(low / 1.2, high * 1.2, binary=cost == "generated_tokens")))
    axes.xaxis.set_minor_locator(NullLocator())
    plain = cost == "generated_tokens"
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}" if plain and x < 1e5 else si(x)))
    axes.set_xlabel(name, color=_INK, fontsize=_FONT_SIZE)
    axes.tick_params(colors=_INK, labelsize=_FONT_SIZE - 1, length=0)
    axes.grid(color="#E4E4E4", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color("#B0B0B0")
    return labels


def _ticks(low: float, high: float, *, binary: bool) -> list[float]:
    """Powers of two, or round decimal steps: as many as fit."""
    if binary:
        steps = [2.0**e for e in range(math.ceil(math.log2(low)), math.floor(math.log2(high)) + 1)]
        return steps[:: math.ceil(len(steps) / 7) or 1] or [low]
    decades = math.log10(high / low)
    digits = (1, 2, 5) if decades < 1.4 else (1, 3) if decades < 2.5 else (1,)
    exponents = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [d * 10.0**e for e in exponents for d in digits if low <= d * 10.0**e <= high] or [low]


def _place(axes: Axes, labels: Sequence[_Label]) -> None:
    """Puts each label beside its series, where it covers the fewest lines and no other label."""
    canvas = axes.figure.canvas
    assert isinstance(canvas, FigureCanvasAgg)
    renderer = canvas.get_renderer()
    frame = axes.get_window_extent(renderer)
    lines = [line for label in labels for line in (label.points, *label.bars)]
    drawn = np.concatenate([_dense(axes.transData.transform(line)) for line in lines])
    taken: list[Bbox] = []
    for text, colour, points, _ in sorted(labels, key=lambda label: len(label.points)):  # least choice first
        halo = [patheffects.withStroke(linewidth=3, foreground="white")]
        style: dict[str, Any] = {"color": colour, "fontsize": _FONT_SIZE, "weight": "bold", "path_effects": halo}
        artist = axes.text(0, 0, text, transform=axes.transAxes, ha="center", va="center", zorder=6, **style)
        size = artist.get_window_extent(renderer)
        anchors = axes.transData.transform(points)
        spots = [
            (
                rank,
                Bbox.from_bounds(
                    x + dx * gap - size.width / 2, y + dy * gap - size.height / 2, size.width, size.height
                ),
            )
            for rank, (x, y) in enumerate(anchors)
            for gap in (1.0, 1.5)
            for right in (-1, -0.5, 0, 0.5, 1)
            for up in (-1, 0, 1)
            if up or abs(right) == 1
            for dx, dy in [(right * (size.width / 2 + 12), up * (size.height / 2 + 10))]
        ]

        def badness(spot: tuple[int, Bbox]) -> float:
            rank, box = spot
            outside = box.x0 < frame.x0 or box.x1 > frame.x1 or box.y0 < frame.y0 or box.y1 > frame.y1
            clashes = sum(box.padded(4).overlaps(other) for other in taken)
            covered = box.padded(3).count_contains(drawn)
            return float(1000 * outside + 500 * clashes + 5 * covered + 25 * rank)

        _, best = min(spots, key=badness)
        x, y = axes.transAxes.inverted().transform(((best.x0 + best.x1) / 2, (best.y0 + best.y1) / 2))
        artist.set_position((float(x), float(y)))
        taken.append(best)


def _dense(points: np.ndarray) -> np.ndarray:
    """Points every few pixels along a line."""
    if len(points) == 1:
        return points
    steps = np.linspace(0, 1, 40)[:, None]
    return np.concatenate([a + steps * (b - a) for a, b in pairwise(points)])

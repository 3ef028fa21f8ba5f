"""The pictures of a PRM's training: its losses and validation metrics, and how often its scores are right."""

from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from experiments.analysis.tables import si
from verifiers.calibration import Bin, expected_calibration_error

_INK, _FAINT = "#222222", "#6E6E6E"
_SERIES = (("#009E73", "^"), ("#D55E00", "s"), ("#0072B2", "o"))  # colour (after Okabe and Ito), marker
_FONT_SIZE = 12.0


def draw_reliability(series: Mapping[str, Sequence[Bin]]) -> Figure:
    """How often scores are right, against the scores, for up to two ways to score; the area of a mark is its share."""
    figure = Figure(figsize=(5.2, 5.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.plot((0, 1), (0, 1), color=_FAINT, linestyle=(0, (4, 2)), linewidth=1)
    for (name, bins), (colour, marker) in zip(series.items(), _SERIES[1:], strict=False):
        total = sum(b.count for b in bins)
        scores, shares = [b.mean_score for b in bins], [b.share_right for b in bins]
        error = expected_calibration_error(bins)
        axes.plot(scores, shares, color=colour, linewidth=1, label=f"{name}: ECE {error:.3f}", marker=marker, ms=5)
        axes.scatter(scores, shares, s=[1500 * b.count / total for b in bins], color=colour, alpha=0.25, linewidths=0)
    axes.set_xlabel("score: P(every step so far is right)", color=_INK, fontsize=_FONT_SIZE)
    axes.set_ylabel("share of such steps that are right", color=_INK, fontsize=_FONT_SIZE)
    axes.set_xlim(-0.02, 1.02)
    axes.set_ylim(-0.02, 1.02)
    axes.set_aspect("equal")
    axes.legend(frameon=False, fontsize=_FONT_SIZE - 1)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def draw_training(rows: Sequence[Mapping[str, float | None]], metrics: Mapping[str, str]) -> Figure:
    """The loss of each step with its running mean, and the validation metrics (by column, with their names), against
    tokens learnt from."""
    figure = Figure(figsize=(10, 4.2), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2)
    frame = pd.DataFrame(rows)
    tokens = frame["tokens"].cumsum()
    panels[0].plot(tokens, frame["loss"], color=_FAINT, linewidth=0.7, alpha=0.6)
    smooth = frame["loss"].ewm(span=max(2, len(frame) // 20)).mean()
    panels[0].plot(tokens, smooth, color=_SERIES[-1][0], linewidth=2)
    panels[0].set_ylabel("training loss", color=_INK, fontsize=_FONT_SIZE)
    for (column, name), (colour, marker) in zip(metrics.items(), reversed(_SERIES), strict=False):
        if (known := frame[column].notna()).any():
            panels[1].plot(tokens[known], frame.loc[known, column], color=colour, marker=marker, label=name)
    panels[1].set_ylabel("validation", color=_INK, fontsize=_FONT_SIZE)
    panels[1].set_ylim(-0.02, 1.02)
    panels[1].legend(frameon=False, fontsize=_FONT_SIZE - 1, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    for axes in panels:
        axes.set_xlabel("tokens", color=_INK, fontsize=_FONT_SIZE)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda number, _: si(number)))
        axes.spines[["top", "right"]].set_visible(False)
    return figure

"""The picture of a training by GRPO: reward, pass@1 on held-out problems, KL divergence and length, by step."""

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from experiments.analysis.intervals import bootstrap_mean
from experiments.training.held_out import pass_rates

_INK, _FAINT, _BLUE, _RED = "#222222", "#6E6E6E", "#0072B2", "#D55E00"
_SMOOTHED_STEPS = 10


def draw(metrics: pd.DataFrame, held_out: pd.DataFrame, *, title: str) -> Figure:
    """Thin: each step; thick: a running mean. pass@1 has its 95% interval over problems."""
    figure = Figure(figsize=(9.6, 5.6), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    figure.suptitle(title, color=_INK)
    (reward, right), (kl, length) = figure.subplots(2, 2, sharex=True)
    _curve(reward, metrics, "reward", "mean reward (training problems)")
    _curve(kl, metrics, "kl", "KL from the policy as it came, per token")
    _curve(length, metrics, "mean_tokens", "tokens per completion")
    right.set_title("pass@1 (held-out problems)", fontsize=10, color=_INK, loc="left")
    steps = sorted(held_out.step.unique())
    if steps:
        measured = [bootstrap_mean(list(pass_rates(held_out, step).values())) for step in steps]
        errors = [[m.value - m.low for m in measured], [m.high - m.value for m in measured]]
        right.errorbar(steps, [m.value for m in measured], yerr=errors, color=_RED, marker="o", ms=4, capsize=3)
    else:
        right.text(0.5, 0.5, "not measured", transform=right.transAxes, ha="center", color=_FAINT)
    for axes in (kl, length):
        axes.set_xlabel("step", color=_INK)
    for axes in (reward, right, kl, length):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="#E5E5E5", linewidth=0.6)
    return figure


def _curve(axes: Axes, metrics: pd.DataFrame, column: str, title: str) -> None:
    axes.set_title(title, fontsize=10, color=_INK, loc="left")
    if column not in metrics:  # with beta 0 there is no divergence to measure
        axes.text(0.5, 0.5, "not measured", transform=axes.transAxes, ha="center", color=_FAINT)
        return
    axes.plot(metrics.step, metrics[column], color=_BLUE, linewidth=0.7, alpha=0.45)
    axes.plot(metrics.step, metrics[column].rolling(_SMOOTHED_STEPS, min_periods=1).mean(), color=_BLUE, linewidth=2)

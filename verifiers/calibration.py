"""Whether scores are probabilities: reliability, expected calibration error, temperature scaling (arXiv 1706.04599)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_SMALLEST, _LARGEST, _HALVINGS = 0.05, 20.0, 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Bin:
    """Scores between `low` and `high`: how many, their mean, and the share of them that is right."""

    low: float
    high: float
    count: int
    mean_score: float
    share_right: float


def reliability(scores: Array, truths: Array, num_bins: int = 10) -> list[Bin]:
    """Bins of equal width, empty ones left out. scores (n,) in 0..1, truths (n,) bool. Raises ValueError for none."""
    if scores.shape != truths.shape or scores.ndim != 1 or not len(scores):
        raise ValueError(f"reliability: wanted as many scores as truths, got {len(scores)} and {len(truths)}")
    bins = np.clip((scores * num_bins).astype(int), 0, num_bins - 1)
    found = []
    for index in range(num_bins):
        inside = bins == index
        if count := int(inside.sum()):
            mean_score = float(scores[inside].mean(dtype=np.float64))
            share = float(truths[inside].mean(dtype=np.float64))
            low, high = index / num_bins, (index + 1) / num_bins
            found.append(Bin(low=low, high=high, count=count, mean_score=mean_score, share_right=share))
    return found


def expected_calibration_error(bins: Sequence[Bin]) -> float:
    """The mean distance of a score from the share that is right among its like."""
    total = sum(b.count for b in bins)
    return sum(b.count / total * abs(b.mean_score - b.share_right) for b in bins)


def fit_temperature(logits: Array, truths: Array) -> float:
    """The divisor of logits (n,) under which truths (n,) are likeliest. The loss is convex in its inverse."""
    if not 0 < int(truths.sum()) < len(truths):
        raise ValueError(f"temperature: wanted right and wrong steps, got {int(truths.sum())} right of {len(truths)}")

    for_truth = np.where(truths, logits, -logits).astype(np.float64)

    def loss(inverse: float) -> float:
        return float(np.logaddexp(0, -for_truth * inverse).mean())

    low, high = 1 / _LARGEST, 1 / _SMALLEST
    for _ in range(_HALVINGS):
        third = (high - low) / 3
        if loss(low + third) < loss(high - third):
            high -= third
        else:
            low += third
    return 2 / (low + high)

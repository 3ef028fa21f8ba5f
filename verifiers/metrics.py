"""How well step scores find errors: step AUROC, first-error accuracy, ProcessBench's F1 (arXiv 2412.06559). Pure.

Scores and labels come as one sequence per solution, one number per step. A label is P(every step so far is correct), or
None where nobody looked; it counts as correct from a half up. A verifier of whole solutions has one step per solution.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Scores = Sequence[Sequence[float]]
Labels = Sequence[Sequence[float | None]]
_MOST_THRESHOLDS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessBench:
    """The share of erroneous solutions whose first error is found, that of correct ones with nothing flagged, and the
    harmonic mean of the two."""

    erroneous: float
    correct: float
    f1: float


def auroc(scores: npt.NDArray[Any], truths: npt.NDArray[np.bool_]) -> float:
    """P(a true one scores above a false one), ties by halves. Both (n,). Raises ValueError for one class only."""
    num_true, num_false = int(truths.sum()), int((~truths).sum())
    if not num_true or not num_false:
        raise ValueError(f"AUROC: wanted both classes, got {num_true} right and {num_false} wrong")
    _, ranks, counts = np.unique(scores, return_inverse=True, return_counts=True)
    rank = (counts.cumsum() - (counts - 1) / 2)[ranks]
    return float((rank[truths].sum() - num_true * (num_true + 1) / 2) / (num_true * num_false))


def labelled_steps(scores: Scores, labels: Labels) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.bool_]]:
    """Scores and truths (n,) of all steps that have a label."""
    _check(scores, labels)
    known = [
        (score, label >= 0.5)
        for row, truth in zip(scores, labels, strict=True)
        for score, label in zip(row, truth, strict=True)
        if label is not None
    ]
    return np.array([score for score, _ in known], dtype=np.float64), np.array(
        [right for _, right in known], dtype=bool
    )


def step_auroc(scores: Scores, labels: Labels) -> float:
    """AUROC over all labelled steps of all solutions."""
    return auroc(*labelled_steps(scores, labels))


def first_error_accuracy(scores: Scores, labels: Labels, threshold: float = 0.5) -> float:
    """The share of solutions whose first step with a score below the threshold is the first wrong one; where all steps
    are correct, none may be flagged. Solutions whose first error the labels don't tell are left out."""
    hits = [hit for hit, _ in _hits(scores, labels, threshold)]
    if not hits:
        raise ValueError("first-error accuracy: no solution's labels tell its first error")
    return sum(hits) / len(hits)


def processbench(scores: Scores, labels: Labels, threshold: float = 0.5) -> ProcessBench:
    """As `first_error_accuracy`, apart for erroneous and for correct solutions. Raises ValueError when one kind lacks.

    The paper takes the decisions of PRMs that classify as they are (a threshold of a half), and for PRMs that give
    scalars the threshold that is best on one subset (`best_threshold`).
    """
    hits = _hits(scores, labels, threshold)
    erroneous, correct = [hit for hit, wrong in hits if wrong], [hit for hit, wrong in hits if not wrong]
    if not erroneous or not correct:
        raise ValueError(
            f"ProcessBench: wanted erroneous and correct solutions, got {len(erroneous)} and {len(correct)}"
        )
    found, passed = sum(erroneous) / len(erroneous), sum(correct) / len(correct)
    return ProcessBench(erroneous=found, correct=passed, f1=2 * found * passed / (found + passed) if found else 0.0)


def processbench_f1(scores: Scores, labels: Labels, threshold: float = 0.5) -> float:
    return processbench(scores, labels, threshold).f1


def best_threshold(scores: Scores, labels: Labels) -> float:
    """Of the scores' quantiles, the one with the highest F1 as a threshold. Tune and report it on different data."""
    quantiles = np.quantile([score for row in scores for score in row], np.linspace(0, 1, _MOST_THRESHOLDS))
    return max(map(float, np.unique(quantiles)), key=lambda threshold: processbench_f1(scores, labels, threshold))


def _hits(scores: Scores, labels: Labels, threshold: float) -> list[tuple[bool, bool]]:
    """Of each solution with a known first error: whether it was found, and whether there is one."""
    _check(scores, labels)
    hits = []
    for row, truth in zip(scores, labels, strict=True):
        wrong = next((i for i, label in enumerate(truth) if label is None or label < 0.5), None)
        if wrong is not None and truth[wrong] is None:
            continue
        flagged = next((i for i, score in enumerate(row) if score < threshold), None)
        hits.append((flagged == wrong, wrong is not None))
    return hits


def _check(scores: Scores, labels: Labels) -> None:
    if [len(row) for row in scores] != [len(row) for row in labels]:
        raise ValueError("metrics: wanted a label for each score of each solution")

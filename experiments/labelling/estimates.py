"""From what is known of single steps to labels: P(every step so far is correct). Pure.

Estimates and their names are Math-Shepherd's (arXiv 2312.08935, section 3.3). Soft estimation: the share of a step's
completions that reach the right answer. Hard estimation: whether any of them does. A prefix can't become right again,
so hard labels are 0 from the first 0 on; soft ones are written as they were estimated.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self

from verifiers.training.labelled import LabelledSolution

Labels = tuple[float | None, ...]  # of a solution's steps; None: nobody knows


class Estimation(StrEnum):
    """What is written of a share or a score."""

    soft = "soft"  # itself
    hard = "hard"  # 1 where it is above a threshold, and was at every step before; else 0


def all_so_far(steps: Iterable[float | None]) -> Labels:
    """The running minimum of the steps' own labels. An unknown step leaves what follows unknown, until a 0 decides."""
    labels: list[float | None] = []
    known, lowest = True, 1.0
    for step in steps:
        known &= step is not None
        lowest = min(lowest, 1.0 if step is None else step)
        labels.append(lowest if known or lowest == 0 else None)
    return tuple(labels)


def hardened(labels: Sequence[float | None], threshold: float) -> Labels:
    """Hard labels of soft ones: whether each, and all before it, is above the threshold."""
    return all_so_far(None if label is None else float(label > threshold) for label in labels)


def with_hard_labels(solutions: Iterable[LabelledSolution], threshold: float) -> list[LabelledSolution]:
    """The same solutions; of softly estimated labels, what hard estimation would have written."""
    return [replace(solution, labels=hardened(solution.labels, threshold)) for solution in solutions]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirstError:
    """Binary search for the first step that no right completion follows, as in OmegaPRM (arXiv 2406.06592).

    The steps before `low` are known to be right, the step `high` to be wrong. Takes it that a step after a wrong one
    is wrong; then n steps, the last of which is wrong, take at most ceil(log2(n)) questions.
    """

    low: int = 0
    high: int

    @property
    def found(self) -> bool:
        """Whether `high` is the answer."""
        return self.low == self.high

    @property
    def step(self) -> int:
        """The step to ask about next."""
        return (self.low + self.high) // 2

    def told(self, right: bool) -> Self:
        """With the answer about `step`."""
        return replace(self, low=self.step + 1) if right else replace(self, high=self.step)

    def labels(self, num_steps: int) -> Labels:
        """Hard labels, once it is found: 1 before the first error, 0 from there on."""
        assert self.found, "the search is not over"
        return (1.0,) * self.high + (0.0,) * (num_steps - self.high)

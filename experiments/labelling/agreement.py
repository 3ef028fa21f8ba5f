"""How far two labellings of the same solutions agree, with intervals over problems. Pure: labels in, numbers out."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from experiments.analysis.intervals import Interval, Over
from verifiers.training.labelled import LabelledSolution

_RIGHT = 0.5  # a label of at least this says that the step is right
_NUM_RESAMPLES = 1000

Array = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of `ours` with `theirs`, over the steps that both label. A label is a yes from 0.5 on.

    `kappa` is Cohen's: 0 is agreement by chance, 1 is full. `auroc`: P(ours is higher at a step that is right by theirs
    than at one that is wrong by theirs), ties counting half. `first_error` is the share of solutions whose first wrong
    step is the same, or that have none in both. NaN: the labels hold one class only.
    """

    num_problems: int
    num_solutions: int
    num_steps: int
    unmatched: int  # solutions that only one of the two holds
    both_right: int
    only_ours: int  # right by ours, wrong by theirs
    only_theirs: int
    both_wrong: int
    equal: Interval  # share of steps
    kappa: Interval
    auroc: Interval
    first_error: Interval

    def __str__(self) -> str:
        shown = ", ".join(
            f"{name} {value.value:.3f} [{value.low:.3f}, {value.high:.3f}]"
            for name, value in (
                ("equal", self.equal),
                ("kappa", self.kappa),
                ("AUROC", self.auroc),
                ("same first error", self.first_error),
            )
        )
        return (
            f"agreement on {self.num_steps:,} steps of {self.num_solutions:,} solutions "
            f"to {self.num_problems:,} problems"
            + (f" ({self.unmatched:,} solutions are in one of the two only)" if self.unmatched else "")
            + f": {shown}; right/right {self.both_right:,}, right/wrong {self.only_ours:,}, "
            f"wrong/right {self.only_theirs:,}, wrong/wrong {self.both_wrong:,}"
        )


def agreement(ours: Iterable[LabelledSolution], theirs: Iterable[LabelledSolution], *, seed: int = 0) -> Agreement:
    """Solutions are the same when problem, steps and tokens are; of equal ones the first goes with the first. Raises
    ValueError when no step is labelled by both."""
    pairs, unmatched = _matched(ours, theirs)
    problems = {id: index for index, id in enumerate(dict.fromkeys(our.problem_id for our, _ in pairs))}
    rows, same_first = [], np.zeros((len(problems), 2))  # of each problem: (solutions with the same first error, all)
    for our, their in pairs:
        index = problems[our.problem_id]
        both = [(a, b) for a, b in zip(our.labels, their.labels, strict=True) if a is not None and b is not None]
        rows += [(index, a, b) for a, b in both]
        same_first[index] += [_first_wrong(a for a, _ in both) == _first_wrong(b for _, b in both), 1]
    if not rows:
        raise ValueError("agreement: wanted solutions that both label, got no step in common")
    steps = np.array(rows, float)
    problem, score, right = steps[:, 0].astype(int), steps[:, 1], steps[:, 2] >= _RIGHT
    cells = np.zeros((len(problems), 2, 2))  # of each problem, by (wrong or right by ours, by theirs)
    np.add.at(cells, (problem, (score >= _RIGHT).astype(int), right.astype(int)), 1)
    order = np.argsort(score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=np.inf))  # last step of each distinct score

    def auroc(weights: Array) -> float:
        weight = weights[problem[order]]
        positives = np.diff(np.cumsum(weight * right[order])[ends], prepend=0.0)
        negatives = np.diff(np.cumsum(weight * ~right[order])[ends], prepend=0.0)
        below = np.cumsum(negatives) - negatives / 2
        return float(positives @ below / (positives.sum() * negatives.sum()))

    def share_of_first(weights: Array) -> float:
        same, solutions = weights @ same_first
        return float(same / solutions)

    draws = np.random.default_rng(seed).multinomial(
        len(problems), np.full(len(problems), 1 / len(problems)), size=_NUM_RESAMPLES
    )

    def interval(statistic: Callable[[Array], float]) -> Interval:
        with np.errstate(invalid="ignore", divide="ignore"):
            resampled = [statistic(weights.astype(float)) for weights in draws]
            low, high = np.nanquantile(resampled, [0.025, 0.975]) if not np.isnan(resampled).all() else (np.nan, np.nan)
            return Interval(value=statistic(np.ones(len(problems))), low=float(low), high=float(high), over=Over.BOTH)

    (both_wrong, only_theirs), (only_ours, both_right) = cells.sum(0).astype(int).tolist()
    return Agreement(
        num_problems=len(problems),
        num_solutions=len(pairs),
        num_steps=len(steps),
        unmatched=unmatched,
        both_right=both_right,
        only_ours=only_ours,
        only_theirs=only_theirs,
        both_wrong=both_wrong,
        equal=interval(lambda weights: _equal(np.tensordot(weights, cells, 1))),
        kappa=interval(lambda weights: _kappa(np.tensordot(weights, cells, 1))),
        auroc=interval(auroc),
        first_error=interval(share_of_first),
    )


def _matched(
    ours: Iterable[LabelledSolution], theirs: Iterable[LabelledSolution]
) -> tuple[list[tuple[LabelledSolution, LabelledSolution]], int]:
    """Pairs of the same solution, and how many have no partner."""
    waiting: defaultdict[object, list[LabelledSolution]] = defaultdict(list)
    for solution in theirs:
        waiting[_identity(solution)].append(solution)
    pairs, alone = [], 0
    for solution in ours:
        partners = waiting[_identity(solution)]
        if partners:
            pairs.append((solution, partners.pop(0)))
        else:
            alone += 1
    return pairs, alone + sum(map(len, waiting.values()))


def _identity(solution: LabelledSolution) -> object:
    return solution.problem_id, solution.completions, solution.step_ids


def _first_wrong(labels: Iterable[float]) -> int | None:
    return next((index for index, label in enumerate(labels) if label < _RIGHT), None)


def _equal(cells: Array) -> float:
    return float(np.trace(cells) / cells.sum())


def _kappa(cells: Array) -> float:
    by_chance = float(cells.sum(0) @ cells.sum(1) / cells.sum() ** 2)
    return (_equal(cells) - by_chance) / (1 - by_chance) if by_chance < 1 else float("nan")

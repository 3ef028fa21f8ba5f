"""What a budget buys at best: the frontier of what was measured, and the compute-optimal choice by difficulty. Pure.

Costs are means per problem and count the policy and the verifier together.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from experiments.analysis.intervals import Interval, bootstrap_mean

_ROUNDING = 1e-9


class Cost(StrEnum):
    """What a budget is in."""

    TOKENS = "tokens"
    FLOPS = "FLOPs"
    SECONDS = "seconds"


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Means per problem. `tokens` are sampled by the policy plus read by the verifier, each in its own vocabulary;
    `flops` are of both; `seconds` are from the start of a search to its end, waiting included."""

    tokens: float
    flops: float
    seconds: float

    def __post_init__(self) -> None:
        if min(self.tokens, self.flops, self.seconds) < 0:
            raise ValueError(f"costs: wanted numbers >= 0, got {self}")

    def of(self, cost: Cost) -> float:
        return {Cost.TOKENS: self.tokens, Cost.FLOPS: self.flops, Cost.SECONDS: self.seconds}[cost]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a strategy did on one problem: its accuracy in 0..1 and what it cost, means over seeds."""

    accuracy: float
    costs: Costs


Outcomes = Mapping[str, Mapping[str, Outcome]]
"""label of a strategy -> problem -> outcome"""


@dataclass(frozen=True, slots=True, kw_only=True)
class FrontierPoint:
    """A strategy as measured. The interval is over problems and seeds."""

    label: str
    accuracy: Interval
    costs: Costs


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """A strategy for each bin of difficulty, within a budget. `accuracy` (over problems and seeds) and `costs` are of
    problems that had no part in the choice, so the costs may miss the budget a little; `chosen` is the choice of all
    problems together, bin -> label."""

    budget: float  # mean per problem, over all bins
    accuracy: Interval
    costs: Costs
    chosen: Mapping[int, str]


@dataclass(frozen=True, slots=True)
class _Choice:
    """Sums over problems, and bin -> label."""

    accuracy: float
    price: float
    labels: Mapping[int, str]


def strategy_points(outcomes: Outcomes) -> list[FrontierPoint]:
    """Each strategy's mean accuracy and costs over its problems."""
    return [
        FrontierPoint(
            label=label,
            accuracy=bootstrap_mean([outcome.accuracy for outcome in found.values()]),
            costs=mean_costs(list(found.values())),
        )
        for label, found in outcomes.items()
    ]


def frontier(points: Sequence[FrontierPoint], cost: Cost) -> list[FrontierPoint]:
    """The points that no other beats for its price, cheapest first; each is more accurate than those before.

    Which points lie on it is itself uncertain: where intervals overlap, the order may be luck.
    """
    found: list[FrontierPoint] = []
    for point in sorted(points, key=lambda point: (point.costs.of(cost), -point.accuracy.value)):
        if not found or point.accuracy.value > found[-1].accuracy.value:
            found.append(point)
    return found


def compute_optimal(outcomes: Outcomes, bins: Mapping[str, int], *, budget: float, cost: Cost) -> Allocation | None:
    """The strategies, one for each bin of difficulty, that are most accurate within a budget, of equals the cheapest
    (after Snell et al., arXiv 2408.03314, section 3.2). None where not even the cheapest are within it.

    The budget is a mean over all problems: what easy bins save is spent on hard ones. As in the paper, two halves of
    each bin choose for each other, so that no problem is measured by a choice that it had a part in. Strategies must
    have run on the same problems, in bins of at least two. Raises ValueError otherwise.
    """
    by_bin: dict[int, list[str]] = {}
    for problem in sorted(_common_problems(outcomes, bins), key=lambda problem: (bins[problem], problem)):
        by_bin.setdefault(bins[problem], []).append(problem)
    if small := [number for number, inside in by_bin.items() if len(inside) < 2]:
        raise ValueError(
            f"compute_optimal: wanted at least 2 problems in each bin (make fewer bins), got 1 in bin {small[0]}"
        )
    chosen = _choose(outcomes, by_bin, by_bin, budget, cost)
    if chosen is None:
        return None
    used: list[Outcome] = []
    for choosing in (0, 1):
        judging = {number: inside[choosing::2] for number, inside in by_bin.items()}
        half = _choose(outcomes, by_bin, judging, budget, cost)
        assert half is not None, "prices are of all problems, whoever judges"
        for number, inside in by_bin.items():
            used += [outcomes[half[number]][problem] for problem in inside[1 - choosing :: 2]]
    accuracy = bootstrap_mean([outcome.accuracy for outcome in used])
    return Allocation(budget=budget, accuracy=accuracy, costs=mean_costs(used), chosen=chosen)


def compute_optimal_frontier(outcomes: Outcomes, bins: Mapping[str, int], cost: Cost) -> list[Allocation]:
    """`compute_optimal` at the mean cost of each strategy, cheapest first, to hold against `frontier`, which spends the
    same budgets alike on all problems. Raises ValueError as `compute_optimal`."""
    budgets = sorted({point.costs.of(cost) for point in strategy_points(outcomes)})
    found = (compute_optimal(outcomes, bins, budget=budget, cost=cost) for budget in budgets)
    return [allocation for allocation in found if allocation is not None]


def _choose(
    outcomes: Outcomes,
    by_bin: Mapping[int, Sequence[str]],
    judging: Mapping[int, Sequence[str]],
    budget: float,
    cost: Cost,
) -> Mapping[int, str] | None:
    """Prices are of all problems of a bin, accuracies of those that judge. Exact: bin by bin, every choice so far that
    no other beats for its price."""
    limit = budget * sum(map(len, by_bin.values())) * (1 + _ROUNDING)
    kept = [_Choice(0.0, 0.0, {})]
    for number, problems in by_bin.items():
        sums = {
            label: (
                len(problems) * fmean(found[problem].accuracy for problem in judging[number]),
                math.fsum(found[problem].costs.of(cost) for problem in problems),
            )
            for label, found in outcomes.items()
        }
        grown = [
            _Choice(choice.accuracy + accuracy, choice.price + price, {**choice.labels, number: label})
            for choice in kept
            for label, (accuracy, price) in sums.items()
            if choice.price + price <= limit
        ]
        kept = []
        for choice in sorted(grown, key=lambda choice: (choice.price, -choice.accuracy)):
            if not kept or choice.accuracy > kept[-1].accuracy + _ROUNDING:
                kept.append(choice)
    return kept[-1].labels if kept else None


def _common_problems(outcomes: Outcomes, bins: Mapping[str, int]) -> set[str]:
    found = {label: set(by_problem) for label, by_problem in outcomes.items()}
    problems = set.union(*found.values()) if found else set()
    lacking = [label for label, own in found.items() if own != problems]
    if not problems or lacking or not problems <= bins.keys():
        raise ValueError(
            "compute_optimal: wanted strategies that ran on the same problems, each in a bin, got "
            f"{len(problems)} problems, {len(problems - bins.keys())} of them in no bin, "
            f"and not all of them for {', '.join(lacking) or 'no strategy'}"
        )
    return problems


def mean_costs(outcomes: Sequence[Outcome]) -> Costs:
    """Over at least one outcome."""
    return Costs(
        tokens=fmean(outcome.costs.tokens for outcome in outcomes),
        flops=fmean(outcome.costs.flops for outcome in outcomes),
        seconds=fmean(outcome.costs.seconds for outcome in outcomes),
    )

"""What a budget buys at best: the frontier of what was measured, and the compute-optimal choice by difficulty. Pure.

Costs are means per problem and count the policy and the verifier together.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

from experiments.analysis.intervals import Interval, bootstrap_mean


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
    """The compute-optimal choice at a budget. `accuracy` is over problems and seeds, on problems that had no part in
    the choice; `chosen` is the choice of all problems together, bin -> label."""

    budget: float
    accuracy: Interval
    costs: Costs
    chosen: Mapping[int, str]


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
    """For each bin of difficulty the strategy that is most accurate within a budget per problem (Snell et al., arXiv
    2408.03314, section 3.2), of equals the cheapest; None where some bin has none within it.

    As in the paper, two halves of each bin choose for each other, so that no problem is measured by a choice that it
    had a part in. Strategies must have run on the same problems, in bins of at least two. Raises ValueError otherwise.
    """
    problems = _common_problems(outcomes, bins)
    used: list[Outcome] = []
    chosen: dict[int, str] = {}
    for number in sorted({bins[problem] for problem in problems}):
        inside = [problem for problem in problems if bins[problem] == number]
        if len(inside) < 2:
            raise ValueError(f"compute_optimal: wanted at least 2 problems in each bin, got 1 in bin {number}")
        whole = _best(outcomes, inside, budget, cost)
        for choosing, measured in ((inside[::2], inside[1::2]), (inside[1::2], inside[::2])):
            pick = _best(outcomes, choosing, budget, cost)
            if pick is None or whole is None:
                return None
            used += [outcomes[pick][problem] for problem in measured]
        assert whole is not None
        chosen[number] = whole
    accuracy = bootstrap_mean([outcome.accuracy for outcome in used])
    return Allocation(budget=budget, accuracy=accuracy, costs=mean_costs(used), chosen=chosen)


def _best(outcomes: Outcomes, problems: Sequence[str], budget: float, cost: Cost) -> str | None:
    """The most accurate label on these problems, of equals the cheapest, whose mean cost is within the budget."""
    means = {
        label: (
            fmean(found[problem].accuracy for problem in problems),
            fmean(found[problem].costs.of(cost) for problem in problems),
        )
        for label, found in outcomes.items()
    }
    within = [label for label, (_, price) in means.items() if price <= budget]
    return max(within, key=lambda label: (means[label][0], -means[label][1]), default=None)


def _common_problems(outcomes: Outcomes, bins: Mapping[str, int]) -> list[str]:
    found = {label: set(by_problem) for label, by_problem in outcomes.items()}
    problems = set.union(*found.values()) if found else set()
    lacking = [label for label, own in found.items() if own != problems]
    if not problems or lacking or not problems <= bins.keys():
        raise ValueError(
            "compute_optimal: wanted strategies that ran on the same problems, each in a bin, got "
            f"{len(problems)} problems, {len(problems - bins.keys())} of them in no bin, "
            f"and not all of them for {', '.join(lacking) or 'no strategy'}"
        )
    return sorted(problems)


def mean_costs(outcomes: Sequence[Outcome]) -> Costs:
    """Over at least one outcome."""
    return Costs(
        tokens=fmean(outcome.costs.tokens for outcome in outcomes),
        flops=fmean(outcome.costs.flops for outcome in outcomes),
        seconds=fmean(outcome.costs.seconds for outcome in outcomes),
    )

"""A knockout of the samples, in pairs that the policy itself compares (Chen et al., "Provable Scaling Laws for the
Test-Time Compute of Large Language Models", arXiv 2411.19477). No verifier.

Each pair is asked in both orders, and a solution wins where both name it, so that a preference for a place in the
prompt cancels. Without such a win the solution with the more frequent answer goes on: the majority decides.
"""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Selection, Trajectory
from orchestrator.core.protocols import Session, Strategy
from orchestrator.core.seeds import derive_seed
from strategies.checks import require
from strategies.comparing import compared
from strategies.selection import as_candidates, most_voted

Pair = tuple[int, int]  # of candidates, by index
Named = tuple[int | None, int | None]  # the candidate that each of the two judgments names


@dataclass(frozen=True, kw_only=True)
class Tournament(Strategy):
    """n samples, of which up to n - 1 pairs are compared. Of two with equal answers the earlier goes on unasked."""

    n: int = 8
    order_seed: int = 0  # with the problem's id: who meets whom

    costly: ClassVar[tuple[str, ...]] = ("n",)

    def __post_init__(self) -> None:
        require(self.n >= 1, f"tournament: n must be >= 1, got {self.n}")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        candidates = as_candidates(await session.rollout([root], self.n, scored=False), None)
        solutions = [candidate.trajectory for candidate in candidates]
        groups = await session.group_answers(solutions)
        standing = [index for index, group in enumerate(groups) if group is not None]
        random.Random(derive_seed(self.order_seed, problem.id, ())).shuffle(standing)
        comparisons: list[dict[str, Any]] = []
        rounds = 0
        while len(standing) > 1:
            pairs = list(zip(standing[::2], standing[1::2], strict=False))
            bye = standing[2 * len(pairs) :]
            named = await _named([pair for pair in pairs if groups[pair[0]] != groups[pair[1]]], solutions, session)
            rounds += 1
            comparisons += [
                {"round": rounds, "pair": pair, "named": both, "winner": winner(pair, both, groups)}
                for pair, both in named.items()
            ]
            # who had no opponent stands first in the next round, and meets one
            standing = bye + [winner(pair, named.get(pair, (None, None)), groups) for pair in pairs]
        won = any(one["named"] in ((index, index) for index in one["pair"]) for one in comparisons)
        return SearchResult(
            candidates=candidates,
            chosen=standing[0] if standing else most_voted(candidates, groups, weighted=False),
            selection=Selection.COMPARISON if won else Selection.MAJORITY,
            detail={"comparisons": comparisons},
        )


async def _named(pairs: Sequence[Pair], solutions: Sequence[Trajectory], session: Session) -> dict[Pair, Named]:
    """What the policy says of each pair, shown in this order and in the other. All are asked side by side."""
    line_ups = [order for first, second in pairs for order in ((first, second), (second, first))]
    places = await compared([[solutions[index] for index in line_up] for line_up in line_ups], session)
    named = [None if at is None else line_up[at] for line_up, at in zip(line_ups, places, strict=True)]
    return dict(zip(pairs, zip(named[::2], named[1::2], strict=True), strict=True))


def winner(pair: Pair, named: Named, groups: Sequence[int | None]) -> int:
    """The one that both judgments name; else the one whose answer more candidates give, or the earlier one. `groups`
    has equal numbers for equal answers."""
    for index in pair:
        if named == (index, index):
            return index
    votes = Counter(groups)
    return min(pair, key=lambda index: (-votes[groups[index]], groups.index(groups[index]), index))

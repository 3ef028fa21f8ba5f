"""Adaptive self-consistency: sample until more votes would hardly change the winner. No verifier.

`beta` and `dirichlet` are the posteriors of Aggarwal et al., "Let's Sample Step by Step", arXiv 2305.11860; `window` is
Li et al., "Escape Sky-high Cost: Early-stopping Self-Consistency", arXiv 2401.10480. Votes count as samples end, so
which of a window's samples vote depends on which end first; what each of them says does not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Selection, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.checks import require
from strategies.concurrency import racing
from strategies.consensus import beta_confidence, dirichlet_confidence, out_of_reach, vote_counts
from strategies.selection import as_candidates, search_result


class StoppingRule(StrEnum):
    beta = "beta"
    dirichlet = "dirichlet"
    window = "window"


@dataclass(frozen=True, kw_only=True)
class AdaptiveConsistency(Strategy):
    """At most n samples, one vote each. Once the vote is settled, what is still being written is aborted."""

    n: int = 16
    rule: StoppingRule = StoppingRule.beta
    threshold: float = 0.95  # beta, dirichlet: the chance of the leader at which the vote is settled
    window: int = 4  # samples written at the same time; `rule: window` wants all of one to agree

    costly: ClassVar[tuple[str, ...]] = ("n",)

    def __post_init__(self) -> None:
        require(self.n >= 1, f"adaptive_consistency: n must be >= 1, got {self.n}")
        require(
            0.5 < self.threshold < 1,
            f"adaptive_consistency: threshold must be above 0.5 and below 1, got {self.threshold}",
        )
        require(self.window >= 1, f"adaptive_consistency: window must be >= 1, got {self.window}")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        voters: list[Trajectory] = []
        begun, settled = 0, False
        while begun < self.n and not settled and (begun == 0 or not session.remaining.exhausted):
            size = min(self.window, self.n - begun)
            begun += size
            async with racing(session.rollout([root], scored=False) for _ in range(size)) as ended:
                for sample in ended:
                    voters += await sample
                    if settled := self.settled(await session.group_answers(voters)):
                        break
        candidates = as_candidates(sorted(voters, key=lambda voter: voter.path), None)
        detail = {"samples": begun, "aborted": begun - len(voters)}
        return await search_result(candidates, session, selection=Selection.MAJORITY, detail=detail)

    def settled(self, groups: Sequence[int | None]) -> bool:
        """Whether the votes so far, in the order in which they came, decide the vote."""
        votes = vote_counts(groups)
        if out_of_reach(votes, self.n - len(groups)):
            return True
        match self.rule:
            case StoppingRule.beta:
                return beta_confidence(votes) >= self.threshold
            case StoppingRule.dirichlet:  # never surer than beta, which is cheap
                return beta_confidence(votes) >= self.threshold and dirichlet_confidence(votes) >= self.threshold
            case StoppingRule.window:
                return len(groups) % self.window == 0 and _agree(groups[-self.window :])


def _agree(groups: Sequence[int | None]) -> bool:
    return None not in groups and len(set(groups)) == 1

"""Self-consistency: sample n completions, take the most frequent answer, or the one with the most weight.

Wang et al., arXiv 2203.11171; weighted by a verifier as in Li et al., "Making Language Models Better Reasoners with
Step-Aware Verifier", arXiv 2206.02336; or by how sure the policy was of a sample (`strategies.certainty`).
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Selection, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.aggregation import Aggregation
from strategies.certainty import TOP_K, Certainty, certainty
from strategies.checks import require
from strategies.selection import as_candidates, search_result


class VoteWeight(StrEnum):
    verifier = "verifier"
    confidence = "confidence"
    entropy = "entropy"
    self_certainty = "self_certainty"


@dataclass(frozen=True, kw_only=True)
class SelfConsistency(Strategy):
    """n independent samples, one vote each, or as much of a vote as the verifier or the policy believes in them."""

    n: int = 16
    weighted: bool = False
    weight: VoteWeight = VoteWeight.verifier  # read only when weighted
    aggregation: Aggregation = Aggregation.last  # of the verifier's weights; read only when weighted

    costly: ClassVar[tuple[str, ...]] = ("n",)

    def __post_init__(self) -> None:
        require(self.n >= 1, f"self_consistency: n must be >= 1, got {self.n}")
        require(  # it would be ignored
            self.weighted or self.weight == VoteWeight.verifier,
            f"self_consistency: weight: {self.weight} needs weighted: true, got weighted: false",
        )

    @property
    def needs_verifier(self) -> bool:
        return self.weighted and self.weight == VoteWeight.verifier

    @property
    def most_candidates(self) -> int:
        return self.n

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        if self.weighted and not self.needs_verifier:
            return await self._weighted_by_the_policy(root, session)
        completions = await session.rollout([root], self.n, scored=self.weighted)
        candidates = as_candidates(completions, self.aggregation if self.weighted else None)
        weighted = self.weighted and session.selection is not Selection.MAJORITY
        selection = Selection.WEIGHTED if weighted else Selection.MAJORITY
        return await search_result(candidates, session, selection=selection)

    async def _weighted_by_the_policy(self, root: Trajectory, session: Session) -> SearchResult:
        completions = await session.rollout([root], self.n, scored=False, logprobs=TOP_K)
        by = Certainty(self.weight)
        candidates = tuple(
            replace(one, aggregate_score=certainty(one.trajectory.steps, by))
            for one in as_candidates(completions, None)
        )
        return await search_result(candidates, session, selection=Selection.WEIGHTED)

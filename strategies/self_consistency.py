"""Self-consistency: sample n completions, take the most frequent answer, or the one with the most verifier weight.

Wang et al., arXiv 2203.11171; weighted as in Li et al., "Making Language Models Better Reasoners with Step-Aware
Verifier", arXiv 2206.02336.
"""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Selection
from orchestrator.core.protocols import Session, Strategy
from strategies.aggregation import Aggregation
from strategies.checks import require
from strategies.selection import as_candidates, search_result


@dataclass(frozen=True, kw_only=True)
class SelfConsistency(Strategy):
    """n independent samples, one vote each, or as much of a vote as the verifier believes in them."""

    n: int = 16
    weighted: bool = False
    aggregation: Aggregation = Aggregation.last  # of the weights; read only when weighted

    costly: ClassVar[tuple[str, ...]] = ("n",)

    def __post_init__(self) -> None:
        require(self.n >= 1, f"self_consistency: n must be >= 1, got {self.n}")

    @property
    def needs_verifier(self) -> bool:
        return self.weighted

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        completions = await session.rollout([root], self.n, scored=self.weighted)
        candidates = as_candidates(completions, self.aggregation if self.weighted else None)
        weighted = self.weighted and session.selection is not Selection.MAJORITY
        selection = Selection.WEIGHTED if weighted else Selection.MAJORITY
        return await search_result(candidates, session, selection=selection)

"""Best-of-N: sample n completions, choose the one that the verifier scores highest.

Cobbe et al., "Training Verifiers to Solve Math Word Problems", arXiv 2110.14168; with a PRM's step scores
aggregated as in Lightman et al., arXiv 2305.20050.
"""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult
from orchestrator.core.protocols import Session, Strategy
from strategies.aggregation import Aggregation
from strategies.checks import require
from strategies.selection import BY_MEAN, RankBy, as_candidates, search_result


@dataclass(frozen=True, kw_only=True)
class BestOfN(Strategy):
    """n independent samples, one choice."""

    n: int = 16
    aggregation: Aggregation = Aggregation.last
    selection: RankBy = BY_MEAN

    costly: ClassVar[tuple[str, ...]] = ("n",)
    needs_verifier: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"best_of_n: n must be >= 1, got {self.n}")

    @property
    def most_candidates(self) -> int:
        return self.n

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        completions = await session.rollout([root], self.n)
        candidates = as_candidates(completions, self.aggregation, self.selection)
        return await search_result(candidates, session)

"""A named baseline: choose the sample that the policy itself finds likeliest.

It misleads: a policy is most confident of what it writes most often, right or wrong, so this favours short, typical
solutions and mostly repeats what greedy decoding would say ("sample and rank" in Wang et al., arXiv 2203.11171, where a
vote beats it). Report it beside a verifier, not as one.
"""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Candidate, Problem, SearchResult, Selection
from orchestrator.core.protocols import Session, Strategy
from strategies.certainty import mean_logprob
from strategies.checks import require
from strategies.selection import search_result


@dataclass(frozen=True, kw_only=True)
class BestLogprob(Strategy):
    """n independent samples; the largest mean log-probability per token wins."""

    n: int = 16

    costly: ClassVar[tuple[str, ...]] = ("n",)
    warning: ClassVar[str] = (
        "best_logprob ranks samples by the policy's own log-probability: it prefers what the policy writes most often, "
        "right or wrong; use it as a baseline only"
    )

    def __post_init__(self) -> None:
        require(self.n >= 1, f"best_logprob: n must be >= 1, got {self.n}")

    @property
    def most_candidates(self) -> int:
        return self.n

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        completions = await session.rollout([root], self.n, scored=False, logprobs=0)
        candidates = [Candidate(trajectory=c, aggregate_score=mean_logprob(c.steps)) for c in completions if c.steps]
        return await search_result(tuple(candidates), session, selection=Selection.SCORE)

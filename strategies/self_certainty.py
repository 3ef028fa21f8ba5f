"""Best-of-N without a verifier: the sample that the policy itself was surest of, or a vote of ranks.

Kang et al., "Scalable Best-of-N Selection for Large Language Models via Self-Certainty", arXiv 2502.18581, with
self-certainty over the 20 likeliest tokens in place of the whole vocabulary.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Selection
from orchestrator.core.protocols import Session, Strategy
from strategies.certainty import TOP_K, Certainty, certainty
from strategies.checks import require
from strategies.selection import as_candidates, best_of_group, best_scored
from strategies.voting import majority_vote


@dataclass(frozen=True, kw_only=True)
class SelfCertainty(Strategy):
    """n samples, ranked by self-certainty. The first is chosen; or, with `borda_power` p, a vote in which rank r of m
    samples with an answer weighs (m - r + 1)^p."""

    n: int = 16
    borda_power: float | None = None  # 0: a plain vote; high: nearly the first alone

    costly: ClassVar[tuple[str, ...]] = ("n",)

    def __post_init__(self) -> None:
        require(self.n >= 1, f"self_certainty: n must be >= 1, got {self.n}")
        require(
            self.borda_power is None or 0 <= self.borda_power <= 100,
            f"self_certainty: borda_power must be between 0 and 100 (or null for no vote), got {self.borda_power}",
        )

    @property
    def most_candidates(self) -> int:
        return self.n

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        samples = await session.rollout([root], self.n, scored=False, logprobs=TOP_K)
        candidates = tuple(
            replace(one, aggregate_score=certainty(one.trajectory.steps, Certainty.self_certainty))
            for one in as_candidates(samples, None)
        )
        if self.borda_power is None:
            return SearchResult(candidates=candidates, chosen=best_scored(candidates), selection=Selection.SCORE)
        groups = await session.group_answers([candidate.trajectory for candidate in candidates])
        scores = [
            None if group is None else candidate.aggregate_score
            for candidate, group in zip(candidates, groups, strict=True)
        ]
        winner = majority_vote(groups, borda_weights(scores, self.borda_power))
        return SearchResult(
            candidates=candidates,
            chosen=best_of_group(candidates, groups, winner),
            selection=Selection.WEIGHTED,
        )


def borda_weights(scores: list[float | None], power: float) -> list[float]:
    """The weight of each score's rank, as a share of the highest rank's; 0 without a score. Equal scores have the rank
    of the first of them."""
    ranked = [score for score in scores if score is not None]
    return [
        0.0 if score is None else (1 - sum(other > score for other in ranked) / len(ranked)) ** power
        for score in scores
    ]

"""Difficulty-adaptive best-of-N: a small probe decides how many samples a problem gets.

Compute-optimal allocation after Snell et al., arXiv 2408.03314: the verifier's mean score of the probe predicts
difficulty. Easy problems stop at the probe, middling ones get a quarter of n, hard ones all of n; where the verifier
believes in nothing that the policy writes, more of the same is held to a quarter too.
"""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult
from orchestrator.core.protocols import Session
from strategies.aggregation import Aggregation
from strategies.checks import require
from strategies.selection import as_candidates, best_scored


@dataclass(frozen=True, kw_only=True)
class AdaptiveBestOfN:
    """At most n samples, `probe` of them first."""

    n: int = 16
    probe: int = 4
    hopeless: float = 0.1  # mean probe score below which a problem counts as out of reach
    medium: float = 0.7  # at and above: middling
    easy: float = 0.9  # at and above: the probe is enough
    aggregation: Aggregation = Aggregation.last

    needs_verifier: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"adaptive_best_of_n: n must be >= 1, got {self.n}")
        require(
            1 <= self.probe <= self.n,
            f"adaptive_best_of_n: probe must be between 1 and n={self.n}, got {self.probe}",
        )
        require(
            0 <= self.hopeless <= self.medium <= self.easy <= 1,
            "adaptive_best_of_n: thresholds must satisfy 0 <= hopeless <= medium <= easy <= 1, "
            f"got {self.hopeless}, {self.medium}, {self.easy}",
        )

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        completions = await session.rollout([root], self.probe)
        scores = [c.aggregate_score or 0.0 for c in as_candidates(completions, self.aggregation)]
        confidence = sum(scores) / len(scores)
        samples = self.samples_for(confidence)
        if samples > self.probe:
            completions += await session.rollout([root], samples - self.probe)
        candidates = as_candidates(completions, self.aggregation)
        return SearchResult(
            candidates=candidates,
            chosen=best_scored(candidates),
            detail={"confidence": confidence, "samples": samples},
        )

    def samples_for(self, confidence: float) -> int:
        """Samples in all, the probe included, from the mean score of the probe."""
        if confidence >= self.easy:
            return self.probe
        if confidence >= self.medium or confidence < self.hopeless:
            return max(self.probe, self.n // 4)
        return self.n

"""Adaptive best-of-N: how many samples a problem gets depends on what its first samples look like.

`rule: marginal_gain` samples on in small rounds until one more sample is worth no more than `price` (see
`strategies.allocation`). `rule: thresholds` is the compute-optimal recipe after Snell et al., arXiv 2408.03314: the
verifier's mean score of the probe predicts difficulty. Easy problems stop at the probe, middling ones get a quarter of
n, hard ones all of n; where the verifier believes in nothing that the policy writes, more of the same is held to a
quarter too.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.aggregation import Aggregation
from strategies.allocation import marginal_gain
from strategies.checks import require
from strategies.selection import BY_MEAN, RankBy, as_candidates, search_result


class Rule(StrEnum):
    marginal_gain = "marginal_gain"
    thresholds = "thresholds"


@dataclass(frozen=True, kw_only=True)
class AdaptiveBestOfN(Strategy):
    """At most n samples, `probe` of them first."""

    n: int = 16
    rule: Rule = Rule.marginal_gain
    probe: int = 4
    round: int = 2  # marginal_gain: samples between two looks
    price: float = 0.002  # marginal_gain: what a sample must be worth, as a rise of the chosen answer's score
    hopeless: float = 0.1  # thresholds: mean probe score below which a problem counts as out of reach
    medium: float = 0.7  # thresholds: at and above, middling
    easy: float = 0.9  # thresholds: at and above, the probe is enough
    aggregation: Aggregation = Aggregation.last
    selection: RankBy = BY_MEAN

    costly: ClassVar[tuple[str, ...]] = ("n",)
    needs_verifier: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"adaptive_best_of_n: n must be >= 1, got {self.n}")
        require(
            1 <= self.probe <= self.n,
            f"adaptive_best_of_n: probe must be between 1 and n={self.n}, got {self.probe}",
        )
        require(self.round >= 1, f"adaptive_best_of_n: round must be >= 1, got {self.round}")
        require(self.price >= 0, f"adaptive_best_of_n: price must be >= 0, got {self.price}")
        require(
            0 <= self.hopeless <= self.medium <= self.easy <= 1,
            "adaptive_best_of_n: thresholds must satisfy 0 <= hopeless <= medium <= easy <= 1, "
            f"got {self.hopeless}, {self.medium}, {self.easy}",
        )

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        completions = await session.rollout([root], self.probe)
        if self.rule == Rule.thresholds:
            confidence = self._confidence(completions)
            if (samples := self.samples_for(confidence)) > self.probe:
                completions += await session.rollout([root], samples - self.probe)
            detail = {"confidence": confidence}
        else:
            gain = await self._gain(completions, session)
            while gain > self.price and len(completions) < self.n and session.may_go_on():
                completions += await session.rollout([root], min(self.round, self.n - len(completions)))
                gain = await self._gain(completions, session)
            detail = {"gain": gain}
        candidates = as_candidates(completions, self.aggregation, self.selection)
        return await search_result(candidates, session, detail={**detail, "samples": len(candidates)})

    def samples_for(self, confidence: float) -> int:
        """thresholds: samples in all, the probe included, from the mean score of the probe."""
        if confidence >= self.easy:
            return self.probe
        if confidence >= self.medium or confidence < self.hopeless:
            return max(self.probe, self.n // 4)
        return self.n

    def _confidence(self, completions: list[Trajectory]) -> float:
        """The mean over what was judged."""
        scores = [c.aggregate_score for c in as_candidates(completions, self.aggregation)]
        judged = [score for score in scores if score is not None]
        return sum(judged) / max(1, len(judged))

    async def _gain(self, completions: list[Trajectory], session: Session) -> float:
        candidates = as_candidates(completions, self.aggregation, self.selection)
        groups = await session.group_answers([candidate.trajectory for candidate in candidates])
        return marginal_gain(candidates, groups)

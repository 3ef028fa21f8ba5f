"""Adaptive self-consistency: sample until more votes would hardly change the winner. No verifier.

`beta` and `dirichlet` are the posteriors of Aggarwal et al., "Let's Sample Step by Step", arXiv 2305.11860; `window` is
Li et al., "Escape Sky-high Cost: Early-stopping Self-Consistency", arXiv 2401.10480; `cges` is after Aghazadeh et al.,
"CGES: Confidence-Guided Early Stopping", arXiv 2511.02603, where confidence is the geometric mean of the sampled
tokens' probabilities. Votes count as samples end, so which of a window's samples vote depends on which end first; what
each of them says does not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, ClassVar

from orchestrator.core.nouns import Candidate, Problem, SearchResult, Selection, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.certainty import mean_probability
from strategies.checks import require
from strategies.concurrency import racing
from strategies.consensus import answer_posteriors, beta_confidence, dirichlet_confidence, out_of_reach, vote_counts
from strategies.selection import as_candidates, best_of_group, search_result


class StoppingRule(StrEnum):
    beta = "beta"
    dirichlet = "dirichlet"
    window = "window"
    cges = "cges"  # it also chooses: the likeliest answer, not the most frequent


@dataclass(frozen=True, kw_only=True)
class AdaptiveConsistency(Strategy):
    """At most n samples, one vote each. Once the vote is settled, what is still being written is aborted."""

    n: int = 16
    rule: StoppingRule = StoppingRule.beta
    threshold: float = 0.95  # beta, dirichlet, cges: the chance of the leader at which the vote is settled
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
        while begun < self.n and not settled and (begun == 0 or session.may_go_on()):
            size = min(self.window, self.n - begun)
            begun += size
            logprobs = 0 if self.rule == StoppingRule.cges else None
            async with racing(session.rollout([root], scored=False, logprobs=logprobs) for _ in range(size)) as ended:
                for sample in ended:
                    voters += await sample
                    if settled := self.settled(voters, await session.group_answers(voters)):
                        break
        candidates = as_candidates(sorted(voters, key=lambda voter: voter.path), None)
        detail = {"samples": begun, "aborted": begun - len(voters)}
        if self.rule == StoppingRule.cges:
            return await _likeliest(candidates, session, detail)
        return await search_result(candidates, session, selection=Selection.MAJORITY, detail=detail)

    def settled(self, voters: Sequence[Trajectory], groups: Sequence[int | None]) -> bool:
        """Whether the votes so far, in the order in which they came, decide the vote."""
        if self.rule == StoppingRule.cges:
            posteriors = answer_posteriors(groups, [mean_probability(voter.steps) for voter in voters])
            return max(posteriors.values(), default=0.0) >= self.threshold
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


async def _likeliest(candidates: Sequence[Candidate], session: Session, detail: Mapping[str, Any]) -> SearchResult:
    """The likeliest answer, given by the candidate of the highest confidence that has it."""
    groups = await session.group_answers([candidate.trajectory for candidate in candidates])
    scored = tuple(replace(one, aggregate_score=mean_probability(one.trajectory.steps)) for one in candidates)
    posteriors = answer_posteriors(groups, [candidate.aggregate_score for candidate in scored])
    winner = max(posteriors, key=lambda answer: posteriors[answer], default=None)
    detail = {**detail, "posterior": posteriors.get(winner) if winner is not None else None}
    return SearchResult(
        candidates=scored, chosen=best_of_group(scored, groups, winner), selection=Selection.WEIGHTED, detail=detail
    )


def _agree(groups: Sequence[int | None]) -> bool:
    return None not in groups and len(set(groups)) == 1

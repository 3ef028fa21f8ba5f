"""From trajectories to candidates, and from candidates to the chosen one."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from orchestrator.core.errors import ProblemError
from orchestrator.core.nouns import Candidate, Score, SearchResult, Selection, Status, Trajectory
from orchestrator.core.protocols import Session
from strategies.aggregation import Aggregation, aggregate
from strategies.checks import require
from strategies.voting import majority_vote


class Ranking(StrEnum):
    mean = "mean"
    lower_bound = "lower_bound"


@dataclass(frozen=True, slots=True, kw_only=True)
class RankBy:
    """What of its scores a candidate is ranked by: their means, or how high they are at least.

    Of many samples the highest mean is often one that the verifier is unsure of; a lower bound holds doubt against it.
    """

    kind: Ranking = Ranking.mean
    z: float = 1.0  # lower_bound: standard deviations of doubt that each score is lowered by

    def __post_init__(self) -> None:
        require(0 <= self.z < math.inf, f"selection: z must be >= 0 and finite, got {self.z}")

    def __str__(self) -> str:
        return f"{self.kind}(z={self.z:g})" if self.kind == Ranking.lower_bound else self.kind

    def of(self, score: Score) -> float:
        return score.mean if self.kind == Ranking.mean else max(0.0, score.mean - self.z * score.std)


BY_MEAN = RankBy()


def as_candidates(
    trajectories: Sequence[Trajectory], how: Aggregation | None, by: RankBy = BY_MEAN
) -> tuple[Candidate, ...]:
    """Candidates in the same order, pruned ones left out; with an aggregation, each with its score, if it has one."""
    return tuple(
        Candidate(trajectory=t, aggregate_score=None if how is None else _score(t, how, by))
        for t in trajectories
        if t.status is not Status.PRUNED
    )


def _score(trajectory: Trajectory, how: Aggregation, by: RankBy) -> float | None:
    """None where it has none, or where the verifier could not judge all of it."""
    if trajectory.unjudged is not None:
        return None
    return aggregate([by.of(step.score) for step in trajectory.steps if step.score is not None], how)


def value(trajectory: Trajectory, how: Aggregation) -> float:
    """Its aggregate score, to guide by: what has none (a cap, nothing written, not judged) is below every score."""
    score = _score(trajectory, how, BY_MEAN)
    return -math.inf if score is None else score


def best_scored(candidates: Sequence[Candidate]) -> int | None:
    """Index of the highest score, the earlier one in a tie. One with an answer goes before any without."""

    def rank(index: int) -> tuple[bool, float]:
        score = candidates[index].aggregate_score
        return candidates[index].trajectory.answer is not None, -math.inf if score is None else score

    return max(range(len(candidates)), key=rank, default=None)


def most_voted(candidates: Sequence[Candidate], groups: Sequence[int | None], *, weighted: bool) -> int | None:
    """Index of the candidate that speaks for the winning answer: its best scored, or its first, one. `groups` has equal
    numbers for equal answers."""
    weights = [candidate.aggregate_score or 0.0 for candidate in candidates] if weighted else None
    winner = majority_vote(groups, weights)
    if weighted:
        return best_of_group(candidates, groups, winner)
    return next((index for index, group in enumerate(groups) if group == winner), None)


def best_of_group(candidates: Sequence[Candidate], groups: Sequence[int | None], winner: int | None) -> int | None:
    """Index of the best scored candidate of those in the winning group."""
    voters = [index for index, group in enumerate(groups) if group == winner]
    best = best_scored([candidates[index] for index in voters])
    return None if best is None else voters[best]


def result_of(trajectory: Trajectory, *, detail: Mapping[str, Any] | None = None) -> SearchResult:
    """The end of a search that wrote one trajectory: its candidate, unless a cap left it unwritten."""
    candidates = as_candidates([trajectory], None)
    return SearchResult(candidates=candidates, chosen=0 if candidates else None, detail=detail or {})


async def search_result(
    candidates: tuple[Candidate, ...],
    session: Session,
    *,
    selection: Selection | None = None,
    detail: Mapping[str, Any] | None = None,
) -> SearchResult:
    """The end of a search: its candidates, and the one chosen by the selection (None: the session's).

    Raises ProblemError where scores were to choose and the verifier could judge none of the candidates.
    """
    selection = selection or session.selection
    reasons = [candidate.trajectory.unjudged for candidate in candidates]
    if selection is not Selection.MAJORITY and reasons and all(reason is not None for reason in reasons):
        raise ProblemError(f"none of {len(reasons)} candidates could be judged; the first: {reasons[0]}")
    match selection:
        case Selection.SCORE:
            chosen = best_scored(candidates)
        case Selection.WEIGHTED | Selection.MAJORITY:
            groups = await session.group_answers([candidate.trajectory for candidate in candidates])
            chosen = most_voted(candidates, groups, weighted=selection is Selection.WEIGHTED)
        case Selection.COMPARISON:
            raise AssertionError("what was compared is known to the strategy alone")
    return SearchResult(candidates=candidates, chosen=chosen, selection=selection, detail=detail or {})

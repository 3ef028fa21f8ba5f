"""From trajectories to candidates, and from candidates to the chosen one."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.core.errors import ProblemError
from orchestrator.core.nouns import Candidate, SearchResult, Selection, Status, Trajectory
from orchestrator.core.protocols import Session
from strategies.aggregation import Aggregation, aggregate
from strategies.voting import majority_vote


def as_candidates(trajectories: Sequence[Trajectory], how: Aggregation | None) -> tuple[Candidate, ...]:
    """Candidates in the same order, pruned ones left out; with an aggregation, each with its score, if it has one."""
    return tuple(
        Candidate(trajectory=t, aggregate_score=None if how is None else _score(t, how))
        for t in trajectories
        if t.status is not Status.PRUNED
    )


def _score(trajectory: Trajectory, how: Aggregation) -> float | None:
    """None where it has none, or where the verifier could not judge all of it."""
    return None if trajectory.unjudged is not None else aggregate(trajectory.step_scores, how)


def value(trajectory: Trajectory, how: Aggregation) -> float:
    """Its aggregate score, to rank by: what has none (a cap, nothing written, not judged) ranks below every score."""
    score = _score(trajectory, how)
    return float("-inf") if score is None else score


def best_scored(candidates: Sequence[Candidate]) -> int | None:
    """Index of the highest score, the earlier one in a tie. One with an answer goes before any without."""

    def rank(index: int) -> tuple[bool, float]:
        score = candidates[index].aggregate_score
        return candidates[index].trajectory.answer is not None, float("-inf") if score is None else score

    return max(range(len(candidates)), key=rank, default=None)


def most_voted(candidates: Sequence[Candidate], groups: Sequence[int | None], *, weighted: bool) -> int | None:
    """Index of the candidate that speaks for the winning answer: its best scored, or its first, one. `groups` has equal
    numbers for equal answers."""
    weights = [candidate.aggregate_score or 0.0 for candidate in candidates] if weighted else None
    winner = majority_vote(groups, weights)
    voters = [index for index, group in enumerate(groups) if group == winner]
    if not weighted:
        return voters[0] if voters else None
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
    return SearchResult(candidates=candidates, chosen=chosen, selection=selection, detail=detail or {})

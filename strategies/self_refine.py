"""Self-refinement: show the policy its last answer and ask for a revision, until the answer holds. No verifier.

Madaan et al., "Self-Refine: Iterative Refinement with Self-Feedback", arXiv 2303.17651, with feedback and revision in
one turn; several chains vote. A revision is a turn of the conversation of its own, through the model's chat template,
so that each attempt has all of `max_tokens`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from orchestrator.core.errors import PromptTooLong
from orchestrator.core.nouns import Message, Problem, SearchResult, Selection, Status, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.checks import require
from strategies.concurrency import together
from strategies.selection import as_candidates, most_voted


@dataclass(frozen=True, kw_only=True)
class SelfRefine(Strategy):
    """n chains side by side. All their attempts are candidates; the last answer of each chain has a vote."""

    n: int = 4
    max_rounds: int = 3  # revisions of a chain; it ends before where an answer comes twice in a row
    request: str = (
        "Check your solution step by step. If you find a mistake, correct it. "
        "Then give the final answer in the same form as before."
    )

    costly: ClassVar[tuple[str, ...]] = ("n", "max_rounds")
    restates: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"self_refine: n must be >= 1, got {self.n}")
        require(self.max_rounds >= 1, f"self_refine: max_rounds must be >= 1, got {self.max_rounds}")
        require(bool(self.request), "self_refine: request must not be empty")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        chains = await together(self._chain(root, session) for _ in range(self.n))
        candidates = as_candidates([attempt for chain in chains for attempt in chain], None)
        voters = {_last_answered(chain).path for chain in chains}
        groups = await session.group_answers([candidate.trajectory for candidate in candidates])
        votes = [
            group if candidate.trajectory.path in voters else None
            for candidate, group in zip(candidates, groups, strict=True)
        ]
        return SearchResult(
            candidates=candidates,
            chosen=most_voted(candidates, votes, weighted=False),
            selection=Selection.MAJORITY,
            detail={"attempts": [len(chain) for chain in chains]},
        )

    async def _chain(self, root: Trajectory, session: Session) -> list[Trajectory]:
        """The attempts of one chain, in order. It ends where the answer holds, where a cap cuts an attempt, or where
        the context has no room for another."""
        chain = await session.rollout([root], scored=False)
        while chain[-1].status is Status.FINISHED and len(chain) <= self.max_rounds:
            try:
                shown = await session.start(self._shown(root.problem, chain[-1]))
            except PromptTooLong:
                break
            # on the path of the attempt that it revises, so that its seed depends on no other chain
            chain += await session.rollout([replace(shown, path=chain[-1].path)], scored=False)
            before, after = await session.group_answers(chain[-2:])
            if before is not None and before == after:
                break
        return chain

    def _shown(self, problem: Problem, attempt: Trajectory) -> Problem:
        """The problem, followed by the attempt and the request to revise it."""
        turns = (Message(role="assistant", content=attempt.reply), Message(role="user", content=self.request))
        return problem.asking((*problem.messages, *turns))


def _last_answered(chain: Sequence[Trajectory]) -> Trajectory:
    """The last attempt with an answer; the last of all where there is none."""
    return next((attempt for attempt in reversed(chain) if attempt.answer is not None), chain[-1])

"""Greedy decoding: one completion at temperature 0. The baseline that every other strategy must beat."""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult
from orchestrator.core.protocols import Session, Strategy
from strategies.selection import result_of


@dataclass(frozen=True, kw_only=True)
class Greedy(Strategy):
    """The most likely token at each position."""

    costly: ClassVar[tuple[str, ...]] = ()
    most_candidates: ClassVar[int] = 1

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        [completion] = await session.rollout([root], temperature=0.0, scored=False)
        return result_of(completion)

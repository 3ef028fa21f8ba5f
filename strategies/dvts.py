"""Diverse verifier tree search: independent greedy subtrees instead of one beam, so that one early favourite can't
take every place.

Beeching et al., "Scaling test-time compute with open models", 2024
(https://huggingface.co/spaces/HuggingFaceH4/blogpost-scaling-test-time-compute).
"""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.aggregation import Aggregation
from strategies.checks import require
from strategies.concurrency import together
from strategies.selection import BY_MEAN, RankBy, as_candidates, search_result, value


@dataclass(frozen=True, kw_only=True)
class DVTS(Strategy):
    """n / beam_width subtrees. Each writes `beam_width` children a step and goes on with the best of them."""

    n: int = 16
    beam_width: int = 4  # children a step of each subtree (the paper's M)
    max_steps: int = 40  # guided steps; what is still running then is written to its end
    aggregation: Aggregation = Aggregation.last
    selection: RankBy = BY_MEAN

    costly: ClassVar[tuple[str, ...]] = ("n",)
    needs_verifier: ClassVar[bool] = True
    needs_step_scores: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"dvts: n must be >= 1, got {self.n}")
        require(
            1 <= self.beam_width <= self.n, f"dvts: beam_width must be between 1 and n={self.n}, got {self.beam_width}"
        )
        require(
            self.n % self.beam_width == 0, f"dvts: n must be a multiple of beam_width={self.beam_width}, got {self.n}"
        )
        require(self.max_steps >= 1, f"dvts: max_steps must be >= 1, got {self.max_steps}")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        subtrees = await together(self._descend(root, session) for _ in range(self.n // self.beam_width))
        session.release([root])
        ended = [trajectory for subtree in subtrees for trajectory in subtree]
        candidates = as_candidates(ended, self.aggregation, self.selection)
        return await search_result(candidates, session)

    async def _descend(self, root: Trajectory, session: Session) -> list[Trajectory]:
        """One subtree, to the end of its kept child. All children that ended on the way are candidates."""
        kept, ended = root, []
        for step in range(self.max_steps):
            children = await session.expand([kept], self.beam_width)
            if step > 0:  # the root is the other subtrees' too
                session.release([kept])
            ended += [child for child in children if child.status.done]
            kept = max(children, key=lambda child: value(child, self.aggregation))
            session.release([child for child in children if child is not kept])
            if kept.status.done:
                return ended
        ended += await session.rollout([kept], self.beam_width)
        session.release([kept])
        return ended

"""Beam search over steps, guided by a PRM (Snell et al., arXiv 2408.03314, section 5.2).

n children of the prompt are written to their first step boundary and scored; the best `beam_width` stay, each is
expanded n / beam_width times, and so on. A kept child that is finished takes a place in the beam for good.
"""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Trajectory
from orchestrator.core.protocols import Session
from strategies.aggregation import Aggregation, aggregate
from strategies.checks import require
from strategies.selection import as_candidates, best_scored


@dataclass(frozen=True, kw_only=True)
class BeamSearch:
    """`n` children a round, of which `beam_width` are kept; each of those gets `expansion` children."""

    n: int = 16
    beam_width: int = 4
    max_steps: int = 40  # guided steps; what is still running then is written to its end
    aggregation: Aggregation = Aggregation.last

    needs_verifier: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"beam_search: n must be >= 1, got {self.n}")
        require(
            1 <= self.beam_width <= self.n,
            f"beam_search: beam_width must be between 1 and n={self.n}, got {self.beam_width}",
        )
        require(
            self.n % self.beam_width == 0,
            f"beam_search: n must be a multiple of beam_width={self.beam_width}, got {self.n}",
        )
        require(self.max_steps >= 1, f"beam_search: max_steps must be >= 1, got {self.max_steps}")

    @property
    def expansion(self) -> int:
        return self.n // self.beam_width

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        frontier, expansion = [await session.start(problem)], self.n
        finished: list[Trajectory] = []
        width = self.beam_width
        for _ in range(self.max_steps):
            children = await session.expand(frontier, expansion)
            session.release(frontier)
            finished += [child for child in children if child.status.done]
            kept = self._top(children, width)
            width -= sum(child.status.done for child in kept)
            frontier, expansion = [child for child in kept if not child.status.done], self.expansion
            alive = {child.path for child in frontier}
            session.release([child for child in children if child.path not in alive])
            if not frontier:
                break
        else:
            finished += await session.rollout(frontier, expansion)
        candidates = as_candidates(finished, self.aggregation)
        return SearchResult(candidates=candidates, chosen=best_scored(candidates))

    def _top(self, children: list[Trajectory], width: int) -> list[Trajectory]:
        """The best `width`; children that wrote nothing (a cap) come last; ties keep their order."""

        def value(child: Trajectory) -> float:
            score = aggregate(child.step_scores, self.aggregation)
            return float("-inf") if score is None else score

        return sorted(children, key=value, reverse=True)[:width]

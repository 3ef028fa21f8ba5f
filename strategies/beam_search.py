"""Beam search over steps, guided by a PRM (Snell et al., arXiv 2408.03314, section 5.2).

n children of the prompt are written to their first step boundary and scored; the best `beam_width` stay, each is
expanded n / beam_width times, and so on. A kept child that is finished takes a place in the beam for good. With
`lookahead` a child is worth what the PRM says at the end of a short simulation of it (the paper's lookahead search).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.aggregation import Aggregation
from strategies.checks import require
from strategies.selection import BY_MEAN, RankBy, as_candidates, search_result, value


@dataclass(frozen=True, kw_only=True)
class BeamSearch(Strategy):
    """`n` children in the first round, of which `beam_width` are kept; each of those gets `expansion` children."""

    n: int = 16
    beam_width: int = 4
    expansion: int | None = None  # None: n / beam_width, so that a full beam has n children in every round
    max_steps: int = 40  # guided steps; what is still running then is written to its end
    lookahead: int = 0  # steps that each child is simulated, at temperature 0, before it is valued
    deduplicate: bool = False  # children of a round with the same completion compete once
    aggregation: Aggregation = Aggregation.last
    selection: RankBy = BY_MEAN

    costly: ClassVar[tuple[str, ...]] = ("n", "expansion", "lookahead")
    needs_verifier: ClassVar[bool] = True
    needs_step_scores: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"beam_search: n must be >= 1, got {self.n}")
        require(
            1 <= self.beam_width <= self.n,
            f"beam_search: beam_width must be between 1 and n={self.n}, got {self.beam_width}",
        )
        require(
            self.expansion is not None or self.n % self.beam_width == 0,
            f"beam_search: n must be a multiple of beam_width={self.beam_width}, got {self.n}",
        )
        require(
            self.expansion is None or self.expansion >= 1, f"beam_search: expansion must be >= 1, got {self.expansion}"
        )
        require(self.max_steps >= 1, f"beam_search: max_steps must be >= 1, got {self.max_steps}")
        require(self.lookahead >= 0, f"beam_search: lookahead must be >= 0, got {self.lookahead}")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        frontier, expansion = [await session.start(problem)], self.n
        finished: list[Trajectory] = []
        width = self.beam_width
        for _ in range(self.max_steps):
            written = await session.expand(frontier, expansion)
            session.release(frontier)
            children = _distinct(written) if self.deduplicate else written
            finished += [child for child in children if child.status.done]
            kept = _top(children, await self._values(children, session), width)
            width -= sum(child.status.done for child in kept)
            frontier = [child for child in kept if not child.status.done]
            expansion = self.expansion or self.n // self.beam_width
            alive = {child.path for child in frontier}
            session.release([child for child in written if child.path not in alive])
            if not frontier:
                break
        else:
            finished += await session.rollout(frontier, expansion)
            session.release(frontier)
        candidates = as_candidates(finished, self.aggregation, self.selection)
        return await search_result(candidates, session)

    async def _values(self, children: Sequence[Trajectory], session: Session) -> list[float]:
        """What each child is worth: its own scores or, with lookahead, those of its simulation."""
        ahead = list(children)
        for step in range(self.lookahead):
            running = [index for index, trajectory in enumerate(ahead) if not trajectory.status.done]
            if not running:
                break
            left = [ahead[index] for index in running]
            for index, trajectory in zip(running, await session.expand(left, temperature=0.0), strict=True):
                ahead[index] = trajectory
            if step > 0:  # the first to be left are the children themselves
                session.release(left)
        session.release([end for end, child in zip(ahead, children, strict=True) if end is not child])
        return [value(end, self.aggregation) for end in ahead]


def _top(children: Sequence[Trajectory], values: Sequence[float], width: int) -> list[Trajectory]:
    """The `width` of the highest values; ties keep their order."""
    return [children[index] for index in sorted(range(len(children)), key=lambda i: values[i], reverse=True)[:width]]


def _distinct(children: Sequence[Trajectory]) -> list[Trajectory]:
    """The first of each completion."""
    return list({child.completion_ids: child for child in reversed(children)}.values())[::-1]

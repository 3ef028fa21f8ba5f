"""REBASE (reward balanced search): a tree of n leaves whose nodes get children in proportion to what the PRM believes.

Wu et al., "Inference Scaling Laws", arXiv 2408.00724: of the leaves that are left at a depth, a node gets its share of
the softmax of the scores. Shares are rounded so that they add up (the paper rounds each on its own).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.aggregation import Aggregation
from strategies.checks import require
from strategies.selection import BY_MEAN, RankBy, as_candidates, search_result, value
from strategies.softmax import softmax


@dataclass(frozen=True, kw_only=True)
class Rebase(Strategy):
    """n first steps. At each depth the nodes that are not finished share as many children as there are of them."""

    n: int = 16
    balance_temperature: float = 0.1  # of the softmax: low expands the best only, high all alike
    max_steps: int = 40  # guided steps; what is still running then is written to its end
    aggregation: Aggregation = Aggregation.last
    selection: RankBy = BY_MEAN

    costly: ClassVar[tuple[str, ...]] = ("n",)
    needs_verifier: ClassVar[bool] = True
    needs_step_scores: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"rebase: n must be >= 1, got {self.n}")
        require(
            self.balance_temperature > 0, f"rebase: balance_temperature must be > 0, got {self.balance_temperature}"
        )
        require(self.max_steps >= 1, f"rebase: max_steps must be >= 1, got {self.max_steps}")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        nodes = await session.expand([root], self.n)
        session.release([root])
        ended: list[Trajectory] = []
        steps = 1
        while frontier := [node for node in nodes if not node.status.done]:
            ended += [node for node in nodes if node.status.done]
            weights = softmax([value(node, self.aggregation) for node in frontier], self.balance_temperature)
            widths = allot(len(frontier), weights)
            session.release([node for node, width in zip(frontier, widths, strict=True) if width == 0])
            parents = [node for node, width in zip(frontier, widths, strict=True) for _ in range(width)]
            # a node stands as often as it gets children, in one call: they fork from it and share the budget evenly
            nodes = await (session.expand if steps < self.max_steps else session.rollout)(parents)
            session.release(parents)
            steps += 1
        candidates = as_candidates([*ended, *nodes], self.aggregation, self.selection)
        return await search_result(candidates, session, detail={"steps": steps})


def allot(count: int, weights: Sequence[float]) -> list[int]:
    """Whole numbers in proportion to the weights (which add up to 1) that add up to `count`: the largest fractions are
    rounded up, the earlier one in a tie."""
    exact = [count * weight for weight in weights]
    shares = [int(share) for share in exact]
    by_fraction = sorted(range(len(exact)), key=lambda index: shares[index] - exact[index])
    for index in by_fraction[: count - sum(shares)]:
        shares[index] += 1
    return shares

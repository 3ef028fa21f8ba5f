"""Monte Carlo tree search over steps, with the PRM as value function: AlphaZero's search without its rollouts.

PUCT as in Silver et al., arXiv 1712.01815; PRM values in place of rollouts as in ReST-MCTS* (Zhang et al., arXiv
2406.03816) and rStar-Math (Guan et al., arXiv 2501.04519). Children are samples of the policy, so each has the same
prior. All children of an expansion are scored at once, and all their values are backed up.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Status, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.aggregation import Aggregation
from strategies.checks import require
from strategies.selection import BY_MEAN, RankBy, as_candidates, search_result, value


@dataclass(slots=True, eq=False)
class _Node:
    """A trajectory in the tree. The tree belongs to one call of `search`."""

    trajectory: Trajectory
    value: float  # -inf: not scored, so never backed up
    visits: int = 0
    total: float = 0.0
    children: list["_Node"] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class MCTS(Strategy):
    """Each simulation walks to a leaf and writes `expansion` children of it, or visits a finished one again."""

    simulations: int = 32
    expansion: int = 4
    c_puct: float = 1.0  # how much a child that was seldom visited is preferred, in units of the score
    max_steps: int = 40  # depth at which a leaf is written to its end
    aggregation: Aggregation = Aggregation.last
    selection: RankBy = BY_MEAN

    costly: ClassVar[tuple[str, ...]] = ("simulations", "expansion")
    needs_verifier: ClassVar[bool] = True
    needs_step_scores: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.simulations >= 1, f"mcts: simulations must be >= 1, got {self.simulations}")
        require(self.expansion >= 1, f"mcts: expansion must be >= 1, got {self.expansion}")
        require(self.c_puct >= 0, f"mcts: c_puct must be >= 0, got {self.c_puct}")
        require(self.max_steps >= 1, f"mcts: max_steps must be >= 1, got {self.max_steps}")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = _Node(trajectory=await session.start(problem), value=-math.inf)
        leaves: list[_Node] = [root]
        ended: list[Trajectory] = []
        simulations = 0
        while leaves and simulations < self.simulations and session.may_go_on():
            simulations += 1
            path = self._select(root)
            leaf = path[-1]
            if leaf.trajectory.status.done:
                _back_up(path)
                continue
            write = session.expand if len(path) <= self.max_steps else session.rollout
            written = await write([leaf.trajectory], self.expansion)
            session.release([leaf.trajectory])
            leaf.children = [_Node(trajectory=child, value=value(child, self.aggregation)) for child in written]
            for child in leaf.children:
                _back_up([*path, child])
            leaves.remove(leaf)
            leaves += [child for child in leaf.children if not child.trajectory.status.done]
            ended += [child for child in written if child.status.done]
        if leaves and all(trajectory.status is not Status.FINISHED for trajectory in ended):
            best = max(leaves, key=lambda leaf: leaf.value)
            ended += await session.rollout([best.trajectory])
        session.release([leaf.trajectory for leaf in leaves])
        candidates = as_candidates(ended, self.aggregation, self.selection)
        return await search_result(candidates, session, detail={"simulations": simulations})

    def _select(self, root: _Node) -> list[_Node]:
        """The path from the root to a leaf along the highest PUCT; the first child wins a tie."""
        path = [root]
        while path[-1].children:
            parent = path[-1]
            path.append(max(parent.children, key=lambda child: self._puct(child, parent)))
        return path

    def _puct(self, child: _Node, parent: _Node) -> float:
        if child.visits == 0:
            return -math.inf  # not scored: a cap left it empty
        exploration = self.c_puct / self.expansion * math.sqrt(parent.visits) / (1 + child.visits)
        return child.total / child.visits + exploration


def _back_up(path: Sequence[_Node]) -> None:
    """Adds the value of the path's last node to all of the path."""
    if path[-1].value > -math.inf:
        for node in path:
            node.visits += 1
            node.total += path[-1].value

"""GenSelect: the policy reads several of its solutions in one prompt and names the best (Toshniwal et al., "GenSelect:
A Generative Approach to Best-of-N", arXiv 2507.17797). No verifier.

Several judgments vote. Each shows solutions of its own choice in an order of its own, so that a preference for a place
in the prompt spreads over all of them. Where no judgment can be read, the majority of the samples decides.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Selection
from orchestrator.core.protocols import Session, Strategy
from orchestrator.core.seeds import derive_seed
from strategies.checks import require
from strategies.comparing import compared, most_preferred
from strategies.selection import as_candidates


@dataclass(frozen=True, kw_only=True)
class GenSelect(Strategy):
    """n samples, and judgments of which each has a vote. Samples that agree on one answer are not compared."""

    n: int = 8
    judgments: int = 4
    shown: int = 8  # solutions in a prompt, at most
    order_seed: int = 0  # with the problem's id: which solutions a judgment shows, and in which order

    costly: ClassVar[tuple[str, ...]] = ("n", "judgments")

    def __post_init__(self) -> None:
        require(self.n >= 1, f"genselect: n must be >= 1, got {self.n}")
        require(self.judgments >= 1, f"genselect: judgments must be >= 1, got {self.judgments}")
        require(self.shown >= 2, f"genselect: shown must be >= 2, got {self.shown}")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        samples = await session.rollout([root], self.n, scored=False)
        candidates = as_candidates(samples, None)
        solutions = [candidate.trajectory for candidate in candidates]
        groups = await session.group_answers(solutions)
        line_ups = self.line_ups(groups, random.Random(derive_seed(self.order_seed, problem.id, ())))
        places = await compared([[solutions[index] for index in line_up] for line_up in line_ups], session)
        picks = [None if at is None else line_up[at] for line_up, at in zip(line_ups, places, strict=True)]
        preferred = [pick for pick in picks if pick is not None]
        return SearchResult(
            candidates=candidates,
            chosen=most_preferred(groups, preferred),
            selection=Selection.COMPARISON if preferred else Selection.MAJORITY,
            detail={"judgments": [{"shown": shown, "pick": pick} for shown, pick in zip(line_ups, picks, strict=True)]},
        )

    def line_ups(self, groups: Sequence[int | None], rng: random.Random) -> list[list[int]]:
        """The candidates that each judgment shows, in order. Those without an answer are not shown; where all answers
        are equal there is nothing to judge."""
        answered = [index for index, group in enumerate(groups) if group is not None]
        if len({groups[index] for index in answered}) < 2:
            return []
        return [rng.sample(answered, min(self.shown, len(answered))) for _ in range(self.judgments)]

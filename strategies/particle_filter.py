"""Particle filtering: a population of prefixes, resampled after every step in proportion to what the PRM believes.

Puri et al., "A Probabilistic Inference Approach to Inference-Time Scaling of LLMs using Particle-Based Monte Carlo
Methods", arXiv 2502.01618: weights are the softmax of the scores' logits. Resampling is systematic (one draw; the
expected copies of the paper's multinomial draws with less noise).
"""

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult
from orchestrator.core.protocols import Session, Strategy
from orchestrator.core.seeds import derive_seed
from strategies.aggregation import Aggregation
from strategies.checks import require
from strategies.selection import BY_MEAN, RankBy, as_candidates, search_result, value
from strategies.softmax import softmax

MARGIN = 1e-6  # scores are clipped this far from 0 and 1, where the logit is infinite


@dataclass(frozen=True, kw_only=True)
class ParticleFilter(Strategy):
    """n particles. A finished one stays in the population with its score, and can be copied or lost like any other."""

    n: int = 16
    weight_temperature: float = 1.0  # of the softmax: low copies the best only, high keeps all
    ess_threshold: float = 1.0  # resample when fewer than this share of the particles carry the weight; 1: always
    resample_seed: int = 0
    max_steps: int = 40  # guided steps; what is still running then is written to its end
    aggregation: Aggregation = Aggregation.last
    selection: RankBy = BY_MEAN

    costly: ClassVar[tuple[str, ...]] = ("n",)
    needs_verifier: ClassVar[bool] = True
    needs_step_scores: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"particle_filter: n must be >= 1, got {self.n}")
        require(
            self.weight_temperature > 0,
            f"particle_filter: weight_temperature must be > 0, got {self.weight_temperature}",
        )
        require(
            0 <= self.ess_threshold <= 1,
            f"particle_filter: ess_threshold must be between 0 and 1, got {self.ess_threshold}",
        )
        require(self.max_steps >= 1, f"particle_filter: max_steps must be >= 1, got {self.max_steps}")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        rng = random.Random(derive_seed(self.resample_seed, problem.id, ()))
        root = await session.start(problem)
        particles = await session.expand([root], self.n)
        session.release([root])
        steps, resamplings = 1, 0
        while any(not particle.status.done for particle in particles):
            weights = softmax_of_logits([value(p, self.aggregation) for p in particles], self.weight_temperature)
            if self.ess_threshold == 1 or effective_size(weights) < self.ess_threshold * self.n:
                copies = [particles[index] for index in systematic(weights, self.n, rng.random())]
                copied = {copy.path for copy in copies}
                session.release([particle for particle in particles if particle.path not in copied])
                particles, resamplings = copies, resamplings + 1
            running = [particle for particle in particles if not particle.status.done]
            if running:  # copies stand side by side in one call: they fork from one prefix and share the budget evenly
                write = session.expand if steps < self.max_steps else session.rollout
                children = iter(await write(running))
                session.release(running)
                particles = [particle if particle.status.done else next(children) for particle in particles]
                steps += 1
        distinct = list({particle.path: particle for particle in particles}.values())
        candidates = as_candidates(distinct, self.aggregation, self.selection)
        return await search_result(candidates, session, detail={"steps": steps, "resamplings": resamplings})


def softmax_of_logits(scores: Sequence[float], temperature: float) -> list[float]:
    """Weights that add up to 1. A score of -inf (no score) weighs nothing, unless none has a score."""
    return softmax([_logit(score) for score in scores], temperature)


def _logit(score: float) -> float:
    if score == -math.inf:
        return score
    clipped = min(max(score, MARGIN), 1 - MARGIN)
    return math.log(clipped / (1 - clipped))


def effective_size(weights: Sequence[float]) -> float:
    """How many equally weighted particles these are worth (Kish)."""
    return 1 / math.fsum(weight**2 for weight in weights)


def systematic(weights: Sequence[float], count: int, offset: float) -> list[int]:
    """`count` indices in order, each floor or ceil of count x weight times. `offset` in [0, 1) is the one draw."""
    indices, ends = [], list(accumulate(weights))
    index = 0
    for tick in range(count):
        while index < len(ends) - 1 and ends[index] <= (tick + offset) / count * ends[-1]:
            index += 1
        indices.append(index)
    return indices

"""Best-of-N that gives up early: a sample whose PRM value can't be expected to reach the best finished one is stopped.

After Sun et al., "Fast Best-of-N Decoding via Speculative Rejection", arXiv 2410.20290, with a PRM's own uncertainty
(an upper confidence bound on the last step's score) in place of their fixed share of rejections.
Samples run freely, so which of them are given up depends on which finish first; what each of them says does not.
"""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Status, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.aggregation import Aggregation
from strategies.checks import require
from strategies.concurrency import together
from strategies.selection import BY_MEAN, RankBy, as_candidates, search_result, value


@dataclass(slots=True)
class _Race:
    """What the samples of one call of `search` know of each other."""

    running: int
    best: float | None = None  # score of the best finished one


@dataclass(frozen=True, kw_only=True)
class EarlyStop(Strategy):
    """n samples. One whose mean + z x std after a step is below the best finished score is not written on."""

    n: int = 16
    z: float = 1.0  # standard deviations of benefit of the doubt
    min_value: float = 0.1  # a floor that holds before anything is finished too: below it nothing is expected any more
    selection: RankBy = BY_MEAN

    costly: ClassVar[tuple[str, ...]] = ("n",)
    needs_verifier: ClassVar[bool] = True
    needs_step_scores: ClassVar[bool] = True
    needs_tokens: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"early_stop: n must be >= 1, got {self.n}")
        require(self.z >= 0, f"early_stop: z must be >= 0, got {self.z}")
        require(0 <= self.min_value <= 1, f"early_stop: min_value must be between 0 and 1, got {self.min_value}")

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        root = await session.start(problem)
        race = _Race(running=self.n)
        samples = await together(self._sample(root, session, race) for _ in range(self.n))
        session.release([root])
        ended = [sample for sample in samples if sample is not None]
        candidates = as_candidates(ended, Aggregation.last, self.selection)
        return await search_result(candidates, session, detail={"stopped": self.n - len(candidates)})

    async def _sample(self, root: Trajectory, session: Session, race: _Race) -> Trajectory | None:
        """One sample, to its end; None if it was given up."""
        [sample] = await session.expand([root])
        while not sample.status.done:
            if self._hopeless(sample, race):
                race.running -= 1
                session.release([sample])
                return None
            [longer] = await session.expand([sample])
            session.release([sample])
            sample = longer
        race.running -= 1
        if sample.status is Status.FINISHED:
            score = value(sample, Aggregation.last)
            race.best = score if race.best is None else max(race.best, score)
        return sample

    def _hopeless(self, sample: Trajectory, race: _Race) -> bool:
        """Whether to give it up. Never the last one running while nothing is finished."""
        score = sample.steps[-1].score
        if score is None or (race.best is None and race.running == 1):
            return False
        bar = self.min_value if race.best is None else max(self.min_value, race.best)
        return score.mean + self.z * score.std < bar

"""One budget of samples for all problems of a run, re-allocated online to where one more sample gains most.

Best-of-N whose N differs by problem: after its probe each search bids the marginal gain of its next sample (see
`strategies.allocation`), and the run's workload (`strategies.workload`) serves the highest bid until the budget is
spent. Greedy allocation is optimal where gains diminish (Fox, "Discrete Optimization via Marginal Analysis", 1966).
"""

from dataclasses import dataclass
from typing import ClassVar

from orchestrator.core.nouns import Problem, SearchResult, Trajectory
from orchestrator.core.protocols import Session, Strategy
from strategies.aggregation import Aggregation
from strategies.allocation import marginal_gain
from strategies.checks import require
from strategies.selection import BY_MEAN, RankBy, as_candidates, search_result
from strategies.workload import Workload


@dataclass(frozen=True, kw_only=True)
class WorkloadBudget(Strategy):
    """`samples_per_problem` samples on average over a run's problems, at most `n` on any of them.

    Where searches share no workload, as on the serving endpoint, each problem is a workload of its own and gets
    `samples_per_problem` samples. Who gets a sample depends on the order in which rounds come back, so, unlike
    elsewhere, how many samples a problem gets may differ when a run is repeated; which ones they are does not.
    """

    n: int = 16
    samples_per_problem: float = 4.0
    probe: int = 2
    round: int = 2  # samples between two bids
    price: float = 0.0  # a problem that gains no more than this by a sample asks for none, whatever the budget
    aggregation: Aggregation = Aggregation.last
    selection: RankBy = BY_MEAN

    costly: ClassVar[tuple[str, ...]] = ("n",)
    needs_verifier: ClassVar[bool] = True

    def __post_init__(self) -> None:
        require(self.n >= 1, f"workload_budget: n must be >= 1, got {self.n}")
        require(self.probe >= 1, f"workload_budget: probe must be >= 1, got {self.probe}")
        require(
            self.probe <= self.samples_per_problem <= self.n,
            f"workload_budget: samples_per_problem must be between probe={self.probe} and n={self.n}, "
            f"got {self.samples_per_problem:g}",
        )
        require(self.round >= 1, f"workload_budget: round must be >= 1, got {self.round}")
        require(self.price >= 0, f"workload_budget: price must be >= 0, got {self.price}")

    def open_workload(self, num_problems: int, in_flight: int, *, done: int = 0, spent: int = 0) -> Workload:
        """The budget of `num_problems`, of which `done` were finished before with `spent` samples.

        What an interrupted run lost is paid again, if need be: every problem that is left gets a sample at least.
        """
        left = num_problems - done
        samples = int(self.samples_per_problem * num_problems) - spent
        return Workload(num_problems=left, samples=max(samples, left), in_flight=in_flight)

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        workload = session.workload or self.open_workload(1, 1)
        completions: list[Trajectory] = []
        try:
            root = await session.start(problem)
            size, gain = self.probe, await self._gain(completions, session)
            while size > 0 and session.may_go_on():
                granted = await workload.grant(problem.id, gain=gain, samples=size)
                if granted == 0:
                    break
                completions += await session.rollout([root], granted)
                gain = await self._gain(completions, session)
                size = min(self.round, self.n - len(completions)) if gain > self.price else 0
        finally:
            workload.leave(problem.id)
        candidates = as_candidates(completions, self.aggregation, self.selection)
        return await search_result(candidates, session, detail={"gain": gain, "samples": len(candidates)})

    async def _gain(self, completions: list[Trajectory], session: Session) -> float:
        candidates = as_candidates(completions, self.aggregation, self.selection)
        groups = await session.group_answers([candidate.trajectory for candidate in candidates])
        return marginal_gain(candidates, groups)

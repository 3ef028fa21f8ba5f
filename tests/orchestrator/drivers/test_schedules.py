"""Whatever happens to the drivers of a run, in whatever order: each job has one row, the run's budget is never exceeded
and settles to what was spent, and no search waits for ever."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.core.ledger import Budget
from strategies.workload_budget import WorkloadBudget
from tests.controlled_clock import ControlledLoop
from tests.orchestrator.drivers.simulated import JOBS, PROBLEMS, SAMPLES_PER_PROBLEM, DriverProcess, Run, rows_alone

LONG_S = 5000.0
FORGETS_S = 300.0  # a loss
SOME = st.integers(min_value=0, max_value=99)  # which one, of those there are
BUDGETS = [
    Budget(),
    Budget(policy_tokens=10**6, verifier_tokens=10**6),
    Budget(policy_tokens=400, verifier_tokens=700),
    Budget(candidates=25, flops=10.0**9),
]
FAULTS: dict[str, Callable[[DriverProcess], Any]] = {
    "it dies": lambda process: process.dead.set(),
    "it answers no more": lambda process: process.answering.clear(),
    "calls to it are cut off": lambda process: process.cut_off(),
    "its policy hangs": lambda process: process.policy.open.clear(),
}


class Schedule(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = ControlledLoop()
        self.disturbed = False

    @initialize(num=st.integers(1, 3), budget=st.sampled_from(BUDGETS), seconds=st.sampled_from([1.0, 25.0, 40.0]))
    def begin(self, num: int, budget: Budget, seconds: float) -> None:
        async def begun() -> Run:
            return Run(num=num, budget=budget, forgets_s=FORGETS_S)

        self.wanted = self.loop.run(rows_alone())
        self.run = self.loop.run(begun())
        self.loop.let_pass(30.0)  # drivers that can not begin are the user's to start again
        self.loop.let_pass(seconds)

    def _in_loop(self, do: Any, *args: Any) -> None:
        async def doing() -> None:
            do(*args)

        self.loop.run(doing())

    @rule(seconds=st.sampled_from([0.01, 0.7, 4.0, 25.0, 100.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.let_pass(seconds)

    @rule(which=SOME, fault=st.sampled_from(sorted(FAULTS)), then_s=st.sampled_from([0.01, 4.0, 25.0]))
    def a_driver_fails(self, which: int, fault: str, then_s: float) -> None:
        if working := [process for process in self.run.alive if process.loaded]:
            self.disturbed = True
            self._in_loop(FAULTS[fault], working[which % len(working)])
        self.loop.let_pass(then_s)

    @rule()
    def all_drivers_answer_again(self) -> None:
        for process in self.run.alive:
            self._in_loop(process.answering.set)
            self._in_loop(process.policy.open.set)

    @rule(is_there=st.booleans())
    def the_pool_goes_or_comes_back(self, is_there: bool) -> None:
        self.run.no_pool = not is_there

    @invariant()
    def all_is_well(self) -> None:
        self.run.check()

    def teardown(self) -> None:
        try:
            self._settles()
        finally:
            self.loop.run(self.run.end())
            self.loop.close()

    def _settles(self) -> None:
        """When nothing happens any more, the run ends, with every row or an error that says why not."""
        self.run.no_pool = False
        self._until(self.run.finished.is_set, "the run has ended")
        assert self.disturbed or self.run.failure is None
        if self.run.failure is None:
            assert set(self.run.rows) == {job.key for job in JOBS}
            self._until(lambda: self.run.is_settled, "the budget is settled")
            self._spent_is_counted()
        for key, tokens in self.wanted.items():
            if key in self.run.rows:
                row, candidates = self.run.rows[key]
                if row.error is None and row.end_reason == "completed":
                    assert [candidate.token_ids for candidate in candidates] == tokens
                assert row.error is None or (self.disturbed and "no answer after" in row.error), row.error
        shared = [row for row, _ in self.run.rows.values() if row.strategy == WorkloadBudget.__name__]
        assert sum(row.num_candidates for row in shared) <= SAMPLES_PER_PROBLEM * len(PROBLEMS)

    def _spent_is_counted(self) -> None:
        counted = {kind: self.run.account._spent[kind] for kind in self.run.account.counted}
        spent = self.run.spent
        assert all(counted[kind] >= (1 - 1e-9) * spent[kind] for kind in spent), "something was spent for nothing"
        if len(self.run.processes) == len(self.run.alive):
            assert all(counted[kind] <= (1 + 1e-9) * spent[kind] for kind in spent), "counted, and never spent"

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        begun = self.loop.time()
        while not condition():
            assert self.loop.time() - begun < LONG_S, f"waited for ever until {what}"
            self.loop.let_pass(5.0)
            self.run.check()


Schedule.TestCase.settings = settings(max_examples=60, stateful_step_count=12, suppress_health_check=list(HealthCheck))
TestSchedules = Schedule.TestCase

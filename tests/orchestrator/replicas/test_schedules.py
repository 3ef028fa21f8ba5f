"""Whatever happens to a named pool and its drivers, in whatever order: each request is in one place at most and ends
once, the run's account settles, and nobody waits for ever."""

from collections.abc import Callable
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from orchestrator.core.config import PolicyConfig
from tests.controlled_clock import ControlledLoop
from tests.orchestrator.replicas.simulated import CAP, Driver, Engine, World

LONG_S = 2000.0
FORGETS_S = 200.0  # a loss
CONFIG = PolicyConfig(
    model="m", min_replicas=1, max_replicas=3, max_restarts=2, stall_timeout_s=30.0, start_timeout_s=100.0
)
SHRINKS_S = 60.0  # without enough to do
SOME = st.integers(min_value=0, max_value=99)  # which one, of those there are
MOST_DRIVERS = 3


class Schedule(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = ControlledLoop()
        self.world = self.loop.run(self._begun())
        self.loop.let_pass(30.0)  # a pool that does not come up is the user's to start again

    async def _begun(self) -> World:
        world = World(CONFIG, forgets_s=FORGETS_S, shrinks_s=SHRINKS_S)
        world.join()
        world.join()
        return world

    def _engine(self, which: int) -> Engine | None:
        return self.world.alive[which % len(self.world.alive)] if self.world.alive else None

    def _driver(self, which: int) -> Driver | None:
        attached = [driver for driver in self.world.drivers if driver.pool is not None]
        return attached[which % len(attached)] if attached else None

    def _in_loop(self, do: Any, *args: Any) -> None:
        async def doing() -> None:
            do(*args)

        self.loop.run(doing())

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.6, 4.0, 25.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.let_pass(seconds)

    @rule(which=SOME, number=st.integers(1, 12), start=st.integers(1, 60), tokens=st.integers(1, 60))
    def a_driver_asks(self, which: int, number: int, start: int, tokens: int) -> None:
        if driver := self._driver(which):
            for _ in range(number):
                self._in_loop(driver.ask, start, tokens)

    @rule(which=SOME)
    def a_driver_gives_a_request_up(self, which: int) -> None:
        if (driver := self._driver(which)) and driver.asked:
            self._in_loop(driver.asked[which % len(driver.asked)].task.cancel)

    @precondition(lambda self: len(self.world.drivers) < MOST_DRIVERS)
    @rule()
    def a_driver_joins(self) -> None:
        self._in_loop(self.world.join)

    @rule(which=SOME)
    def a_driver_leaves(self, which: int) -> None:
        if (driver := self._driver(which)) and all(asked.task.done() for asked in driver.asked):
            driver.leave()
            self.loop.run(driver.life)
            self.world.drivers.remove(driver)

    @rule(which=SOME)
    def a_driver_dies(self, which: int) -> None:
        if driver := self._driver(which):
            self.loop.run(self.world.driver_dies(driver))

    @rule(which=SOME)
    def a_replica_dies(self, which: int) -> None:
        if engine := self._engine(which):
            self._in_loop(engine.dead.set)

    @rule(which=SOME)
    def a_replica_answers_no_more(self, which: int) -> None:
        if engine := self._engine(which):
            self._in_loop(engine.answering.clear)

    @rule(which=SOME)
    def a_replica_answers_again(self, which: int) -> None:
        if engine := self._engine(which):
            self._in_loop(engine.answering.set)

    @rule(which=SOME)
    def an_engine_makes_no_progress(self, which: int) -> None:
        if engine := self._engine(which):
            self._in_loop(engine.engine.open.clear)

    @rule()
    def the_keeper_dies(self) -> None:
        self.loop.run(self.world.keeper_dies())

    @rule()
    def the_cluster_is_full(self) -> None:
        self.world.no_room = True

    @rule()
    def the_cluster_has_room(self) -> None:
        self.world.no_room = False

    @invariant()
    def all_is_well(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        try:
            self._settles()
        finally:
            self.loop.run(self.world.end())
            self.loop.close()

    def _settles(self) -> None:
        """When nothing happens any more, all that was asked ends, and nothing of it is left anywhere."""
        self.world.no_room = False
        self._until(lambda: all(driver.is_done for driver in self.world.drivers), "what was asked has ended")
        self._until(lambda: len(self.world.alive) == self.world.num_loaded == 1, "one replica is left")
        for driver in self.world.drivers:
            self._in_loop(driver.ask, 5, 10)
        self._until(lambda: all(driver.is_done for driver in self.world.drivers), "what was asked has ended")
        assert all(driver.asked[-1].ends[0] in ("written", "over budget") for driver in self.world.drivers)
        self._until(lambda: not any(engine.jobs for engine in self.world.alive), "the replicas have nothing to do")
        for driver in self.world.drivers:
            assert driver.pool is not None and not driver.pool._waiting
        accounts = [driver.account for driver in self.world.drivers]
        assert not any(account._held["policy_tokens"] for account in accounts)
        spent = sum(
            account._spent["policy_tokens"] for account in accounts
        )  # all of its part, and nothing to give back
        assert self.world.account._held["policy_tokens"] == spent
        left = self.world.account.left("policy_tokens")
        written = sum(len(asked.tokens) for driver in self.world.drivers for asked in driver.asked)
        assert left is not None and left <= CAP - written

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        begun = self.loop.time()
        while not condition():
            assert self.loop.time() - begun < LONG_S, f"waited for ever until {what}"
            self.loop.let_pass(5.0)
            self.world.check()


Schedule.TestCase.settings = settings(max_examples=80, stateful_step_count=20, suppress_health_check=list(HealthCheck))
TestSchedules = Schedule.TestCase

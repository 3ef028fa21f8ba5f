"""Whatever happens to a named pool of a verifier and its drivers, in whatever order: every score is that of the whole
text, each reading ends once, a replica drains before it is removed, and no state is left when all are released."""

from collections.abc import Callable
from functools import partial
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from orchestrator.core.config import VerifierConfig
from tests.controlled_clock import ControlledLoop
from tests.orchestrator.verifier.simulated import Driver, Reader, World

LONG_S = 2000.0
FORGETS_S = 200.0  # a loss
DRAINS_S, EVER_S = 40.0, 10 * LONG_S
CONFIG = VerifierConfig(
    min_replicas=1,
    max_replicas=3,
    slots=8,
    host_slots=4,
    batch_tokens=60,
    max_restarts=2,
    stall_timeout_s=30.0,
    start_timeout_s=100.0,
)
SOME = st.integers(min_value=0, max_value=99)  # which one, of those there are
TOKENS = st.integers(1, 40)
SHORT = st.sampled_from([0.0, 0.3, 3.0])  # seconds
MOST_DRIVERS = 3


def raises(reader: Reader, times: int) -> None:
    reader.faults.raises = times


FAULTS: dict[str, Callable[[Reader], Any]] = {
    "it dies": lambda reader: reader.dead.set(),
    "it answers no more": lambda reader: reader.answering.clear(),
    "calls to it are cut off": lambda reader: reader.cut_off(),
    "its verifier raises": partial(raises, times=1),
    "its verifier raises again": partial(raises, times=3),
    "its verifier hangs": lambda reader: reader.faults.open.clear(),
}


class Schedule(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = ControlledLoop()

    @initialize(drains_s=st.sampled_from([DRAINS_S, EVER_S]))
    def begin(self, drains_s: float) -> None:
        async def begun() -> World:
            world = World(CONFIG, forgets_s=FORGETS_S, drains_s=drains_s, most_drains_s=EVER_S)
            world.join()
            world.join()
            return world

        self.world = self.loop.run(begun())
        self.loop.let_pass(30.0)  # a pool that does not come up is the user's to start again
        self._in_loop(self.world.want, 2)
        self.loop.let_pass(30.0)
        for driver in self.world.drivers:
            self._in_loop(driver.begin, 4, 10)
        self.loop.let_pass(5.0)

    def _driver(self, which: int) -> Driver | None:
        attached = [driver for driver in self.world.drivers if driver.pool is not None]
        return attached[which % len(attached)] if attached else None

    def _in_loop(self, do: Any, *args: Any, **options: Any) -> None:
        async def doing() -> None:
            do(*args, **options)

        self.loop.run(doing())

    @rule(seconds=st.sampled_from([0.01, 0.6, 4.0, 25.0, 60.0]))
    def time_passes(self, seconds: float) -> None:
        self.loop.let_pass(seconds)

    @rule(which=SOME, number=st.integers(1, 6), tokens=TOKENS, then_s=SHORT)
    def a_driver_begins_texts(self, which: int, number: int, tokens: int, then_s: float) -> None:
        if driver := self._driver(which):
            self._in_loop(driver.begin, number, tokens)
        self.loop.let_pass(then_s)

    @rule(which=SOME, text=SOME, number=st.integers(1, 4), tokens=TOKENS, keep=st.booleans(), then_s=SHORT)
    def a_driver_goes_on(self, which: int, text: int, number: int, tokens: int, keep: bool, then_s: float) -> None:
        if (driver := self._driver(which)) and driver.texts:
            self._in_loop(driver.go_on, text, number, tokens, keep_parent=keep)
        self.loop.let_pass(then_s)

    @rule(which=SOME)
    def a_driver_gives_readings_up(self, which: int) -> None:
        if (driver := self._driver(which)) and driver.asked:
            self._in_loop(driver.asked[-1 - which % min(3, len(driver.asked))].task.cancel)

    @rule(which=SOME)
    def a_driver_releases_a_state(self, which: int) -> None:
        if driver := self._driver(which):
            self._in_loop(driver.release, which)

    @rule(which=SOME, dies=st.booleans())
    def a_driver_goes_and_another_one_comes(self, which: int, dies: bool) -> None:
        if driver := self._driver(which):
            if dies:
                self.loop.run(self.world.driver_dies(driver))
            elif all(asked.task.done() for asked in driver.asked):
                driver.leave()
                self.loop.run(driver.life)
                self.world.drivers.remove(driver)
        if len(self.world.drivers) < MOST_DRIVERS:
            self._in_loop(self.world.join)

    @rule(number=st.integers(1, 3))
    def so_many_replicas_are_wanted(self, number: int) -> None:
        self._in_loop(self.world.want, number)

    @rule(which=SOME, fault=st.sampled_from(sorted(FAULTS)))
    def a_replica_fails(self, which: int, fault: str) -> None:
        if self.world.alive:
            self.world.any_fault = True
            self._in_loop(FAULTS[fault], self.world.alive[which % len(self.world.alive)])

    @rule(which=SOME)
    def a_replica_answers_again(self, which: int) -> None:
        if self.world.alive:
            self._in_loop(self.world.alive[which % len(self.world.alive)].answering.set)

    @rule()
    def the_keeper_dies(self) -> None:
        self.loop.run(self.world.keeper_dies())

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
        for reader in self.world.alive:
            reader.faults.raises = 0
        self._until(lambda: all(driver.is_done for driver in self.world.drivers), "what was asked has ended")
        for driver in self.world.drivers:
            self._in_loop(driver.release_all)
        self._until(lambda: len(self.world.alive) == self.world.num_loaded == 1, "one replica is left")
        for driver in self.world.drivers:
            self._in_loop(driver.begin, 3, 10)
        self._until(lambda: all(driver.is_done for driver in self.world.drivers), "what was asked has ended")
        assert all(driver.asked[-1].ends == ["judged"] for driver in self.world.drivers)
        for driver in self.world.drivers:
            self._in_loop(driver.release_all)
        self._until(
            lambda: all(reader.is_idle and not reader.states for reader in self.world.alive), "no state is held"
        )
        for driver in self.world.drivers:
            pool = driver.pool
            assert pool is not None and not (pool._arrived or pool._unplaced or pool._states._starting)
            assert not pool._states.any_released and not pool._states._unwanted
            assert all(not (one.queue.calls or one.queue.pending_tokens) for one in pool._replicas)

    def _until(self, condition: Callable[[], bool], what: str) -> None:
        begun = self.loop.time()
        while not condition():
            assert self.loop.time() - begun < LONG_S, f"waited for ever until {what}"
            self.loop.let_pass(5.0)
            self.world.check()


Schedule.TestCase.settings = settings(max_examples=60, stateful_step_count=20, suppress_health_check=list(HealthCheck))
TestSchedules = Schedule.TestCase

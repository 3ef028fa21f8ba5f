"""Facts about a pool whose number of replicas moves with the work, over replicas and drivers that are made up and a
clock that the test moves: no Ray."""

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.core.config import PolicyConfig
from orchestrator.replicas.keeper import Keeper
from tests.controlled_clock import ControlledLoop
from tests.orchestrator.replicas.processes import LOAD_S
from tests.orchestrator.replicas.simulated import Driver, Engine, World

CONFIG = PolicyConfig(
    model="m", min_replicas=1, max_replicas=2, max_restarts=0, stall_timeout_s=30.0, start_timeout_s=60.0
)
SHRINKS_S = 60.0


@pytest.fixture
def loop() -> Iterator[ControlledLoop]:
    loop = ControlledLoop()
    yield loop
    loop.close()


@pytest.fixture
def world(loop: ControlledLoop) -> Iterator[World]:
    async def begun() -> World:
        world = World(CONFIG, forgets_s=3600.0, shrinks_s=SHRINKS_S)
        world.join()
        return world

    world = loop.run(begun())
    loop.let_pass(LOAD_S + 5.0)
    yield world
    world.check()
    loop.run(world.end())


def ask(loop: ControlledLoop, driver: Driver, number: int, tokens: int) -> None:
    async def asking() -> None:
        for _ in range(number):
            driver.ask(5, tokens)

    loop.run(asking())
    loop.let_pass(1.0)


def keeper_of(world: World) -> Keeper:
    return world.keeper.life._keepers["policy"]


def stages(loop: ControlledLoop, world: World) -> list[str]:
    async def told() -> Any:
        rows, _ = await world.keeper.status.remote()
        return [row.stage for row in rows]

    return loop.run(told())


def grown(loop: ControlledLoop, world: World) -> tuple[Engine, Engine]:
    """Two replicas, each with something to do."""
    ask(loop, world.drivers[0], 40, 60)
    loop.let_pass(60.0)
    [first, second] = world.alive
    assert first.jobs and second.jobs
    return first, second


def shrink(loop: ControlledLoop, world: World) -> None:
    """As if the work had called for one replica only."""

    async def shrinking() -> None:
        keeper = keeper_of(world)
        keeper._tasks[-1].cancel()  # what looks at the work
        keeper._num_wanted = 1
        keeper._settle()

    loop.run(shrinking())


def all_written(driver: Driver) -> bool:
    return all(asked.ends == ["written"] for asked in driver.asked)


def test_a_pool_grows_with_work_that_waits_shrinks_without_and_loses_no_request(
    loop: ControlledLoop, world: World
) -> None:
    [driver] = world.drivers
    assert len(world.alive) == 1
    grown(loop, world)
    loop.let_pass(500.0)
    assert driver.is_done and all_written(driver)
    assert len(world.alive) == 1 and world.alive[0].loaded
    ask(loop, driver, 1, 5)
    loop.let_pass(10.0)
    assert all_written(driver)
    assert keeper_of(world).current.exhausted is None


def test_work_that_waits_for_a_moment_starts_no_replica(loop: ControlledLoop, world: World) -> None:
    ask(loop, world.drivers[0], 12, 20)  # eight, or so, run at a time, for 10 s
    loop.let_pass(60.0)
    assert all_written(world.drivers[0])
    assert len(world.engines) == 1


def test_a_replica_that_drains_gets_nothing_new_and_finishes_what_it_has(loop: ControlledLoop, world: World) -> None:
    [driver] = world.drivers
    grown(loop, world)
    shrink(loop, world)
    loop.let_pass(1.0)
    assert sorted(stages(loop, world)) == ["drains", "serves"]
    [leaving] = [one.member for one in keeper_of(world).standings if one.member is not None and one.member.draining]
    engine = leaving.actor
    asked_before = set(engine.engine.started)
    while engine in world.alive:
        loop.let_pass(1.0)
    assert not engine.jobs and set(engine.engine.started) == asked_before
    assert stages(loop, world) == ["serves"]
    loop.let_pass(300.0)
    assert all_written(driver)


def test_what_a_replica_has_not_finished_in_time_is_moved(loop: ControlledLoop, world: World) -> None:
    [driver] = world.drivers
    grown(loop, world)
    for engine in world.alive:
        engine.engine.open.clear()  # for a while no sequence ends, and the keeper must not take that for a stall

    async def let_progress() -> None:
        for engine in world.alive:
            engine.engine.steps += 1

    shrink(loop, world)
    for _ in range(130):
        loop.run(let_progress())
        loop.let_pass(1.0)
    [left] = world.alive
    left.engine.open.set()
    loop.let_pass(400.0)
    assert all_written(driver)
    assert [one.losses for one in keeper_of(world).standings] == [0]


def test_a_replica_that_drains_is_taken_back_where_the_other_one_dies(loop: ControlledLoop, world: World) -> None:
    grown(loop, world)
    shrink(loop, world)
    loop.let_pass(1.0)
    [stays, leaves] = sorted(keeper_of(world).standings, key=lambda one: one.stage)
    assert stays.member is not None and leaves.member is not None
    stays.member.actor.dead.set()
    loop.let_pass(10.0)
    assert world.alive == [leaves.member.actor]
    assert stages(loop, world) == ["serves"]
    loop.let_pass(600.0)
    assert all_written(world.drivers[0])


def test_a_replica_for_which_there_is_no_room_stays_wanted_and_the_pool_serves_with_what_there_is(
    loop: ControlledLoop, world: World
) -> None:
    world.no_room = True
    ask(loop, world.drivers[0], 120, 60)
    loop.let_pass(CONFIG.start_timeout_s + 60.0)
    assert stages(loop, world) == ["serves", "no room"]
    assert [one.losses for one in keeper_of(world).standings] == [0, 0]
    world.no_room = False
    loop.let_pass(CONFIG.start_timeout_s + LOAD_S)
    assert stages(loop, world) == ["serves", "serves"]
    loop.let_pass(600.0)
    assert all_written(world.drivers[0])


def test_what_a_dead_driver_held_back_calls_for_no_replica(loop: ControlledLoop, world: World) -> None:
    ask(loop, world.drivers[0], 100, 90)
    loop.let_pass(3.0)
    assert keeper_of(world)._waiting
    loop.run(world.driver_dies(world.drivers[0]))
    loop.let_pass(8.0)
    assert not keeper_of(world)._waiting
    loop.let_pass(60.0)
    assert len(world.engines) == 1

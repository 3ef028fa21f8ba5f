"""Facts about the process of a pool's keeper, over replicas and drivers that are made up and a clock that the test
moves: no Ray."""

from collections.abc import Iterator
from typing import Any

import pytest

from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import PoolExhausted
from orchestrator.pools import service
from tests.controlled_clock import ControlledLoop
from tests.orchestrator.replicas.simulated import Asked, Driver, World

CONFIG = PolicyConfig(model="m", replicas=2, max_restarts=2, stall_timeout_s=30.0, start_timeout_s=100.0)


@pytest.fixture
def loop() -> Iterator[ControlledLoop]:
    loop = ControlledLoop()
    yield loop
    loop.close()


@pytest.fixture
def world(loop: ControlledLoop) -> Iterator[World]:
    async def begun() -> World:
        return World(CONFIG, forgets_s=200.0)

    world = loop.run(begun())
    loop.let_pass(30.0)
    yield world
    loop.run(world.end())


def test_a_keeper_that_was_restarted_starts_what_died_meanwhile_although_nobody_calls(
    loop: ControlledLoop, world: World
) -> None:
    for engine in world.alive:
        engine.dead.set()
    loop.run(world.keeper_dies())
    loop.let_pass(60.0)
    assert world.num_loaded == 2


def test_a_keeper_that_dies_twice_in_a_second_leads_to_replicas_that_drivers_use(
    loop: ControlledLoop, world: World
) -> None:
    joined(loop, world)
    for _ in range(2):
        for engine in world.alive:
            engine.dead.set()
        loop.run(world.keeper_dies(back_s=0.4))
        loop.let_pass(0.05)
    loop.let_pass(60.0)
    [driver] = world.drivers
    assert driver.pool is not None and driver.pool.num_ready == 2
    names = [engine.name for engine in world.engines]
    assert len(names) == len(set(names))


def joined(loop: ControlledLoop, world: World) -> Driver:
    async def join() -> None:
        world.join()

    loop.run(join())
    loop.let_pass(1.0)
    return world.drivers[0]


def ask(loop: ControlledLoop, driver: Driver) -> Asked:
    async def asking() -> None:
        driver.ask(5, 10)

    loop.run(asking())
    return driver.asked[-1]


def test_a_driver_goes_on_without_its_keeper_for_as_long_as_a_replica_is_left(
    loop: ControlledLoop, world: World
) -> None:
    driver = joined(loop, world)
    loop.run(world.keeper_stops())
    for _ in range(5):
        asked = ask(loop, driver)
        loop.let_pass(300.0)
        assert asked.ends == ["written"]
    world.alive[0].dead.set()
    asked = ask(loop, driver)
    loop.let_pass(300.0)
    assert asked.ends == ["written"]


def test_a_driver_that_has_no_replica_left_waits_some_time_for_its_keeper_and_then_says_so(
    loop: ControlledLoop, world: World
) -> None:
    driver = joined(loop, world)
    loop.run(world.keeper_stops())
    loop.let_pass(600.0)
    for engine in world.alive:
        engine.dead.set()
    asked = ask(loop, driver)
    loop.let_pass(60.0)
    assert not asked.ends
    loop.let_pass(180.0)
    assert asked.ends == ["exhausted"]
    assert driver.pool is not None and isinstance(driver.pool._ended, PoolExhausted)
    assert "its keeper is gone, and no replica is left that it had started" in str(driver.pool._ended)


def test_a_keeper_that_was_stopped_takes_no_driver_for_dead_because_it_heard_none(
    loop: ControlledLoop, world: World
) -> None:
    driver = joined(loop, world)
    for engine in world.alive:
        engine.engine.open.clear()
    ask(loop, driver)
    loop.let_pass(1.0)
    [busy] = [engine for engine in world.alive if engine.jobs]
    clock: Any = service.time
    before = clock.monotonic
    clock.monotonic = lambda: before() + 600.0  # it slept
    loop.let_pass(10.0)
    assert busy.jobs
    loop.run(world.driver_dies(driver))
    loop.let_pass(10.0)
    assert not busy.jobs

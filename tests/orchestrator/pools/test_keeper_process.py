"""Facts about the process of a pool's keeper, over replicas and drivers that are made up and a clock that the test
moves: no Ray."""

from collections.abc import Iterator

import pytest

from orchestrator.core.config import PolicyConfig
from tests.controlled_clock import ControlledLoop
from tests.orchestrator.replicas.simulated import World

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
    async def join() -> None:
        world.join()

    loop.run(join())
    loop.let_pass(1.0)
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

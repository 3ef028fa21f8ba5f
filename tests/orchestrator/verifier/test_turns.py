"""Facts about turns that nobody uses, over a replica whose thread and clock the test moves: no Ray."""

from orchestrator.core.config import VerifierConfig
from orchestrator.verifier.actor import _TURN_S
from tests.controlled_clock import ControlledLoop
from tests.orchestrator.verifier.simulated import World


def test_a_replica_on_which_turns_lapse_is_not_taken_for_stalled() -> None:
    """Each of them is that of a driver which died."""
    config = VerifierConfig(stall_timeout_s=2.5 * _TURN_S, max_restarts=0)
    loop = ControlledLoop()

    async def begun() -> World:
        world = World(config, forgets_s=3600.0, drains_s=60.0, most_drains_s=60.0)
        world.join()
        return world

    async def asked() -> None:
        for _ in range(4):
            world.alive[0].turn.remote()
        world.drivers[0].begin(1, 5)

    world = loop.run(begun())
    try:
        loop.let_pass(30.0)
        loop.run(asked())
        loop.let_pass(5 * _TURN_S)
        assert world.drivers[0].asked[0].ends == ["judged"]
        world.check()
    finally:
        loop.run(world.end())
        loop.close()

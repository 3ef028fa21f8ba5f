"""Facts about a driver that lives while calls to it are lost, in a run that is made up: no Ray."""

from collections.abc import Iterator

import pytest

from orchestrator.core.ledger import Budget
from tests.controlled_clock import ControlledLoop
from tests.orchestrator.drivers.simulated import JOBS, LOAD_S, Run


@pytest.fixture
def loop() -> Iterator[ControlledLoop]:
    loop = ControlledLoop()
    yield loop
    loop.close()


@pytest.mark.parametrize("budget", [Budget(), Budget(policy_tokens=10**6)])
def test_a_driver_whose_calls_are_lost_is_ended_and_solves_nothing_beside_its_successor(
    loop: ControlledLoop, budget: Budget
) -> None:
    async def begun() -> Run:
        return Run(num=2, budget=budget, forgets_s=3600.0)

    run = loop.run(begun())
    try:
        loop.let_pass(LOAD_S + 5.0)
        first, second = run.processes
        solving = set(first.solving)
        assert solving

        async def cut() -> None:
            first.cut_off()

        loop.run(cut())
        loop.let_pass(0.1)
        assert first.dead.is_set() and solving <= second.solving
        loop.let_pass(600.0)
        assert set(run.rows) == {job.key for job in JOBS} and run.is_settled
        run.check()
    finally:
        loop.run(run.end())

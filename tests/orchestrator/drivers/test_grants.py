"""Facts about a workload that is shared over drivers that may die."""

import asyncio

import pytest

from orchestrator.drivers.grants import Grants, SharedWorkload
from orchestrator.drivers.mailbox import Mailbox, Turn
from strategies.workload import Workload


async def test_a_search_that_is_begun_again_is_given_the_same_and_nothing_is_granted_twice() -> None:
    workload = Workload(num_problems=2, samples=10, in_flight=2)
    grants = Grants(workload, "a")
    assert await grants.turn(0, gain=1.0, samples=3) == 3
    waiting = asyncio.create_task(grants.turn(1, gain=0.5, samples=2))  # for the other problem's bid
    await asyncio.sleep(0)
    waiting.cancel()  # its driver died
    assert await grants.turn(0, gain=1.0, samples=3) == 3
    again = asyncio.create_task(grants.turn(1, gain=0.5, samples=2))
    await asyncio.sleep(0)
    assert not again.done() and workload.samples_left == 7
    workload.leave("b")
    assert await again == 2
    assert workload.samples_left == 5


async def test_a_search_that_is_done_is_waited_for_no_more() -> None:
    workload = Workload(num_problems=2, samples=4, in_flight=2)
    first, second = Grants(workload, "a"), Grants(workload, "b")
    assert await first.turn(0, gain=1.0, samples=1) == 1
    asked = asyncio.create_task(first.turn(1, gain=1.0, samples=1))
    await second.turn(0, gain=1.0, samples=1)
    assert not asked.done()
    second.close()
    assert await asked == 1
    left = asyncio.create_task(first.turn(2, gain=0.0, samples=1))
    assert await left == 1
    first.close()


async def test_a_driver_is_answered_turn_by_turn() -> None:
    mailbox = Mailbox()
    shared = SharedWorkload(mailbox, 7)
    asking = asyncio.create_task(shared.grant("a", gain=0.5, samples=2))
    [(number, ask)] = await mailbox.fetch(10.0)
    assert ask == Turn(job=7, number=0, gain=0.5, samples=2)
    mailbox.answer(number, 1)
    assert await asking == 1
    second = asyncio.create_task(shared.grant("a", gain=0.25, samples=1))
    [(number, ask)] = await mailbox.fetch(10.0)
    assert ask == Turn(job=7, number=1, gain=0.25, samples=1)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    mailbox.answer(number, 1)  # nobody hears it
    assert await mailbox.fetch(0.0) == []

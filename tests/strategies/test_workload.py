"""Who gets how many samples of a shared budget, stepped without a clock."""

import asyncio

import pytest

from strategies.workload import Workload
from strategies.workload_budget import WorkloadBudget


async def settle():
    for _ in range(5):
        await asyncio.sleep(0)


class Asking:
    """A problem whose bids the test makes by hand; what it was granted is in `got`."""

    def __init__(self, workload, name):
        self.workload, self.name, self.got = workload, name, []
        self.task = None

    async def bid(self, gain=0.5, samples=2):
        async def ask():
            self.got.append(await self.workload.grant(self.name, gain=gain, samples=samples))

        self.task = asyncio.create_task(ask())
        await settle()
        return self.got

    @property
    def waits(self):
        return not self.task.done()


async def problems(workload, names):
    """Problems that have all got their probe."""
    asking = [Asking(workload, name) for name in names]
    for one in asking:
        await one.bid()
    return asking


async def test_every_problem_gets_its_probe_before_anyone_gets_more():
    workload = Workload(num_problems=2, samples=10, in_flight=8)
    a, b = Asking(workload, "a"), Asking(workload, "b")
    assert await a.bid() == [2]
    await a.bid(gain=0.9)
    assert a.waits
    assert await b.bid() == [2]
    assert a.waits, "b has not said yet what it would gain"
    assert await b.bid(gain=0.1) == [2, 2]
    assert a.got == [2, 2]


async def test_the_highest_bid_is_served_first_and_equal_ones_by_name():
    workload = Workload(num_problems=4, samples=100, in_flight=1)
    names = ["c", "a", "d", "b"]
    asking = [Asking(workload, name) for name in names]
    for one in asking:
        await one.bid()
    gains = {"a": 0.2, "b": 0.2, "c": 0.1, "d": 0.3}
    order = []
    for one in asking:
        await one.bid(gains[one.name])  # its probe comes back, so that the next probe goes out
    for _ in names:
        [served] = [one for one in asking if len(one.got) == 2 and one.name not in order]
        order.append(served.name)
        workload.leave(served.name)
        await settle()
    assert order == ["d", "a", "b", "c"]


async def test_no_more_grants_than_in_flight_are_out_and_none_fewer():
    workload = Workload(num_problems=3, samples=100, in_flight=2)
    a, b, c = (Asking(workload, name) for name in "abc")
    assert (await a.bid(), await b.bid(), await c.bid()) == ([2], [2], [])
    await a.bid()
    assert c.got == [2], "a's probe came back"
    await b.bid()
    await c.bid()
    assert sorted(len(one.got) for one in (a, b, c)) == [1, 2, 2]


async def test_the_budget_is_spent_to_the_last_sample_and_never_exceeded():
    workload = Workload(num_problems=2, samples=7, in_flight=2)
    a, b = await problems(workload, "ab")
    await a.bid(gain=0.2)
    await b.bid(gain=0.1)
    assert (a.got, b.got, workload.samples_left) == ([2, 2], [2, 1], 0)
    assert (await a.bid())[-1] == (await b.bid())[-1] == 0


async def test_a_budget_too_small_for_all_probes_is_shared_by_them():
    workload = Workload(num_problems=3, samples=4, in_flight=3)
    asking = [Asking(workload, name) for name in "abc"]
    assert [await one.bid(samples=4) for one in asking] == [[1], [1], [2]]


async def test_who_leaves_is_waited_for_no_longer():
    workload = Workload(num_problems=3, samples=100, in_flight=3)
    a, _ = await problems(workload, "ab")
    await a.bid()
    workload.leave("b")
    assert a.waits
    workload.leave("c")  # it failed before its probe
    workload.leave("c")
    await settle()
    assert a.got == [2, 2]


@pytest.mark.parametrize("probed", [False, True])
async def test_who_is_cancelled_while_it_waits_costs_nothing(probed):
    workload = Workload(num_problems=3, samples=100, in_flight=1)
    a, b, c = (Asking(workload, name) for name in "abc")
    await a.bid()
    await b.bid()
    if probed:
        await a.bid()
        await b.bid()
    before = workload.samples_left
    b.task.cancel()
    await settle()
    workload.leave("b")
    await settle()
    assert workload.samples_left == before
    if not probed:
        await a.bid()
    await c.bid()
    await c.bid(gain=0.1)
    assert a.got == [2, 2] and c.waits


async def test_a_grant_whose_problem_is_cancelled_makes_room_for_another():
    workload = Workload(num_problems=2, samples=100, in_flight=1)
    a, b = Asking(workload, "a"), Asking(workload, "b")
    await a.bid()
    await b.bid()
    assert b.waits
    workload.leave("a")
    await settle()
    assert b.got == [2]


def test_impossible_workloads_are_refused():
    with pytest.raises(ValueError, match="got 2, 1 and 4"):
        Workload(num_problems=2, samples=1, in_flight=4)


def test_what_was_spent_before_an_interruption_is_not_spent_again():
    strategy = WorkloadBudget(n=16, samples_per_problem=4.5)
    assert strategy.open_workload(10, 4).samples_left == 45
    assert strategy.open_workload(10, 4, done=3, spent=20).samples_left == 25
    assert strategy.open_workload(10, 4, done=3, spent=44).samples_left == 7, "one for each that is left"

"""Whose turn it is, who is refused, and who leaves nothing behind."""

import asyncio

import pytest

from orchestrator.serving.errors import ApiError, stopping
from orchestrator.serving.fair_queue import FairQueue
from tests.waiting import until


class Line:
    """Requests that wait, by name, in the order in which they had their turn."""

    def __init__(self, queue: FairQueue) -> None:
        self.queue = queue
        self.served: list[str] = []
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, places: int = 1, timeout_s: float = 60.0) -> None:
        """The key is the name's first letter."""

        async def wait() -> None:
            await self.queue.take(name[0], places, timeout_s)
            self.served.append(name)

        self.tasks[name] = asyncio.create_task(wait())
        await asyncio.sleep(0)

    async def serve(self, places: int = 1) -> None:
        self.queue.give_back(places)
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    async def refused(self, name: str) -> ApiError:
        with pytest.raises(ApiError) as caught:
            await self.tasks[name]
        return caught.value


async def full(places: int = 1, max_queued: int = 8) -> Line:
    line = Line(FairQueue(places, max_queued))
    await line.queue.take("z", places, 1.0)
    return line


async def test_keys_take_turns_and_within_a_key_the_first_comes_first() -> None:
    line = await full()
    for name in ("a1", "a2", "a3", "b1", "c1", "b2"):
        await line.ask(name)
    for _ in range(6):
        await line.serve()
    assert line.served == ["a1", "b1", "c1", "a2", "b2", "a3"]
    assert len(line.queue) == 0


async def test_a_place_that_is_free_is_given_at_once() -> None:
    queue = FairQueue(2, 0)
    await queue.take("a", 1, 1.0)
    await queue.take("b", 1, 1.0)
    with pytest.raises(ApiError, match="2 searches are in progress and 0 requests wait"):
        queue.check_room("a")
    with pytest.raises(ApiError) as caught:
        await queue.take("a", 1, 1.0)
    assert (caught.value.status, caught.value.retry_after_s) == (429, 1)
    queue.give_back()
    queue.check_room("a")


async def test_a_request_for_many_places_has_its_turn_though_small_ones_come_after() -> None:
    line = await full(places=2)
    await line.ask("a1", places=2)
    await line.ask("b1")
    await line.serve()
    assert line.served == []
    await line.serve()
    assert line.served == ["a1"]
    await line.serve(2)
    assert line.served == ["a1", "b1"]


async def test_a_key_with_few_displaces_the_newest_of_the_key_with_most() -> None:
    line = await full(max_queued=3)
    for name in ("a1", "a2", "a3", "a4"):
        await line.ask(name)
    assert (await line.refused("a4")).status == 429
    line.queue.check_room("b")
    await line.ask("b1")
    assert (await line.refused("a3")).code == "rate_limit_exceeded"
    await line.ask("b2")
    assert (await line.refused("b2")).status == 429  # it would have as many as the other
    for _ in range(3):
        await line.serve()
    assert line.served == ["a1", "b1", "a2"]


async def test_who_leaves_is_in_nobodys_way() -> None:
    line = await full(places=2)
    await line.ask("a1", places=2)
    await line.ask("b1")
    await line.serve()
    line.tasks["a1"].cancel()
    await until(lambda: line.served == ["b1"])
    assert len(line.queue) == 0


async def test_who_leaves_as_its_turn_comes_gives_the_place_back() -> None:
    line = await full()
    await line.ask("a1")
    await line.ask("b1")
    line.queue.give_back()
    line.tasks["a1"].cancel()  # before it could run
    await until(lambda: line.served == ["b1"])
    await line.serve()
    line.queue.check_room("a")


async def test_who_waits_too_long_is_told_so() -> None:
    line = await full()
    await line.ask("a1", timeout_s=0.01)
    error = await line.refused("a1")
    assert (error.status, error.message) == (429, "no search could begin within 0.01 s")
    assert len(line.queue) == 0


async def test_a_server_that_stops_refuses_who_waits_and_who_comes() -> None:
    line = await full()
    await line.ask("a1")
    line.queue.close(stopping())
    assert (await line.refused("a1")).status == 503
    await line.ask("b1")
    assert (await line.refused("b1")).status == 503
    with pytest.raises(ApiError, match="stopping"):
        line.queue.check_room("c")

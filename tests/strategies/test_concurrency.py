import asyncio

import pytest

from strategies.concurrency import racing


class Runner:
    """Ends with its name when it is let go, and knows whether it was cancelled."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.let_go = asyncio.Event()
        self.cancelled = False

    async def run(self) -> str:
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.cancelled = True
            raise
        return self.name


async def test_results_come_in_the_order_in_which_they_end():
    slow, quick = Runner("slow"), Runner("quick")
    async with racing(runner.run() for runner in (slow, quick)) as ended:
        quick.let_go.set()
        assert await next(ended) == "quick"
        slow.let_go.set()
        assert await next(ended) == "slow"
    assert not slow.cancelled


async def test_leaving_cancels_what_still_runs():
    slow, quick = Runner("slow"), Runner("quick")
    async with racing(runner.run() for runner in (slow, quick)) as ended:
        quick.let_go.set()
        await next(ended)
    assert slow.cancelled


async def test_a_failure_is_raised_as_itself_and_cancels_the_rest():
    async def fail():
        raise LookupError("gone")

    slow = Runner("slow")
    with pytest.raises(LookupError, match="gone"):
        async with racing([slow.run(), fail()]) as ended:
            await next(ended)
    assert slow.cancelled

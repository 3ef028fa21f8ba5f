"""Bounded waits for what sets no event: other tasks, other processes."""

import asyncio
import time
from collections.abc import Callable


async def until(condition: Callable[[], bool], *, pause_s: float = 0.0, within_s: float = 60.0) -> None:
    """Lets other tasks run until the condition holds."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110 - what is waited for sets no event
            await asyncio.sleep(pause_s)


def wait_until(condition: Callable[[], bool], what: str = "it came about", *, within_s: float = 60.0) -> None:
    """Waits for another process or thread."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, f"timed out waiting until {what}"
        time.sleep(0.05)

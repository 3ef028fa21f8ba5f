"""A driver tells the keeper how much of its work waits for room: the replicas do not see what it holds back."""

import asyncio
from collections.abc import Callable

from orchestrator.replicas.members import Membership

_EVERY_S = 1.0


async def tell_waiting(membership: Membership, driver: str, waiting: Callable[[], float]) -> None:
    """Until it is cancelled. `waiting`: counted in replicas."""
    told = 0.0
    while True:
        await asyncio.sleep(_EVERY_S)
        now = waiting()
        if now or told:  # again and again: a keeper may be another one by now
            membership.waits(driver, now)
        told = now

"""Parts of one search that need not wait for each other."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Coroutine, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from orchestrator.core.errors import first_error

T = TypeVar("T")


async def together(coroutines: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Their results in the same order. The first failure cancels the rest and is raised as itself."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(coroutine) for coroutine in coroutines]
    except BaseExceptionGroup as failures:
        raise first_error(failures) from None
    return [task.result() for task in tasks]


@asynccontextmanager
async def racing(coroutines: Iterable[Coroutine[Any, Any, T]]) -> AsyncIterator[Iterator[Awaitable[T]]]:
    """Their results in the order in which they end, each to be awaited. Leaving cancels what still runs."""
    tasks = [asyncio.create_task(coroutine) for coroutine in coroutines]
    try:
        yield asyncio.as_completed(tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

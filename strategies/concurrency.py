"""Parts of one search that need not wait for each other."""

import asyncio
from collections.abc import Coroutine, Iterable
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

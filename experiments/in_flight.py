"""Work on many problems at a time: one that fails is reported and the others go on."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from orchestrator.core.errors import ReplicaError, UserError, first_error
from orchestrator.core.nouns import Problem


async def for_each_problem(
    problems: Sequence[Problem],
    work: Callable[[Problem], Awaitable[None]],
    *,
    in_flight: int,
    timeout_s: float,
    on_problem: Callable[[str | None], None],
) -> dict[str, str]:
    """Works on the problems, at most `in_flight` at a time. The errors of those that failed, by their ids; `on_problem`
    is called at the end of each with its error or None. Raises UserError and ReplicaError, which concern them all,
    after the problems in flight were cancelled."""
    failed: dict[str, str] = {}

    async def take(queue: Iterator[Problem]) -> None:
        for problem in queue:
            error = None
            try:
                async with asyncio.timeout(timeout_s) as deadline:
                    await work(problem)
            except (UserError, ReplicaError):
                raise
            except Exception as problem_error:
                late = isinstance(problem_error, TimeoutError) and deadline.expired()
                error = f"not done in {timeout_s:g} s" if late else f"{type(problem_error).__name__}: {problem_error}"
                failed[problem.id] = error
            on_problem(error)

    queue = iter(problems)
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(take(queue))
    except ExceptionGroup as group:
        raise first_error(group) from None
    return failed

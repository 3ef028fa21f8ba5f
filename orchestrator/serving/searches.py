"""The searches in flight. Each is a task of its own: what happens to a connection can end it, never its clean-up."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import replace
from typing import Any

from orchestrator.core.errors import LateError, PoolExhausted, ProblemError, PromptTooLong, ReplicaError, UserError
from orchestrator.core.nouns import Problem, SearchResult
from orchestrator.core.protocols import Session
from orchestrator.search import SearchRuntime, solve
from orchestrator.serving.config import Limits
from orchestrator.serving.errors import ApiError, busy, internal, invalid, stopping, timed_out, unavailable
from orchestrator.serving.openai_api import Answered, Order
from orchestrator.session import SearchSession

log = logging.getLogger(__name__)

_LAST_STEPS_S = 5.0  # beyond `limits.drain_s`: the last verdicts, and an answer to choose


class Search:
    """One search in flight. `accepted` is set once its prompt is known to fit.

    It runs outside the request's context: Ray would cancel what is called in there together with the request.
    """

    def __init__(self, run: Callable[["Search"], Coroutine[Any, Any, Answered]]) -> None:
        self.accepted = asyncio.Event()
        self.task = asyncio.create_task(run(self), context=Context())

    async def begun(self) -> None:
        """Returns when the search has begun in earnest. Raises ApiError when it can't."""
        waiting = asyncio.create_task(self.accepted.wait())
        try:
            await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self.task.done():
            self.outcome()

    def outcome(self) -> Answered:
        """Of a search that is done. Raises ApiError."""
        if self.task.cancelled():
            raise stopping()
        return self.task.result()

    def cancel(self) -> None:
        """Nobody waits for it any more. Nothing happens to one that is done."""
        self.task.cancel()


class Searches:
    """Owner of the searches: at most `limits.max_concurrent`, each with a deadline."""

    def __init__(
        self,
        *,
        runtime: SearchRuntime,
        limits: Limits,
        on_exhausted: Callable[[PoolExhausted], None],
    ) -> None:
        """`runtime` says what all have in common; how a search samples is each request's own."""
        self._runtime = runtime
        self._limits = limits
        self._on_exhausted = on_exhausted
        self._sessions: dict[asyncio.Task[Answered], SearchSession] = {}
        self._draining = False

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def draining(self) -> bool:
        return self._draining

    def check_room(self) -> None:
        """Raises ApiError when no search can begin now."""
        if self._draining:
            raise stopping()
        if len(self._sessions) >= self._limits.max_concurrent:
            raise busy(self._limits.max_concurrent)

    def start(self, order: Order) -> Search:
        """Begins a search. Raises ApiError when there are as many as may be."""
        self.check_room()
        session = replace(self._runtime, sampling=order.sampling).session(order.seed)
        search = Search(lambda search: self._run(order, session, search))
        self._sessions[search.task] = session
        search.task.add_done_callback(self._ended)
        return search

    async def drain(self) -> None:
        """Begins no more, and waits for those in flight: `limits.drain_s` from now each has the best found by then."""
        self._draining = True
        for session in self._sessions.values():
            session.end_within(self._limits.drain_s)
        if self._sessions:
            await asyncio.wait(list(self._sessions), timeout=self._limits.drain_s + _LAST_STEPS_S)

    async def close(self) -> None:
        """Cancels what still runs and waits until all is cleaned up."""
        tasks = list(self._sessions)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Answered]) -> None:
        del self._sessions[task]
        if not task.cancelled():
            task.exception()  # seen, also where the client has left; `_run` logged what needs a log

    async def _run(self, order: Order, session: SearchSession, search: Search) -> Answered:
        """The search under its deadline. The one place where a fault becomes what a client is told."""
        # the id is the same for all, so that equal seeds mean equal draws
        problem = Problem(id="request", messages=order.messages)
        prompt_ids: tuple[int, ...] = ()

        async def accepted_and_searched(problem: Problem, session: Session) -> SearchResult:
            nonlocal prompt_ids
            prompt_ids = (await session.start(problem)).prompt_ids
            search.accepted.set()  # before a stream begins, which can't be refused
            return await order.named.strategy.search(problem, session)

        try:
            outcome = await solve(problem, accepted_and_searched, session, timeout_s=self._limits.timeout_s)
        except ReplicaError as error:
            log.warning("request %s failed: %s", order.request_id, error)
            if isinstance(error, PoolExhausted):
                self._on_exhausted(error)
            raise unavailable("the model's workers are unavailable, try again later") from None
        except UserError as error:  # the catalog takes no such request
            raise self._told(error, order) from None
        if outcome.result is None:
            raise self._told(outcome.error, order)
        found = Answered(
            result=outcome.result,
            ledger=session.ledger,
            prompt_tokens=len(prompt_ids),
            wall_s=outcome.wall_s,
        )
        if outcome.result.chosen is None:
            raise invalid("the budget left no candidate to answer with", param="headrace")
        if self._draining and not found.chosen.steps:
            raise stopping()  # nothing was written yet: another server may do better
        log.info("request %s: %s in %.3f s", order.request_id, found.result.end_reason.value, found.wall_s)
        return found

    def _told(self, error: Exception | None, order: Order) -> ApiError:
        if isinstance(error, LateError):
            return timed_out(self._limits.timeout_s)
        if isinstance(error, ProblemError):
            code = "context_length_exceeded" if isinstance(error, PromptTooLong) else None
            return invalid(str(error), param="messages", code=code)
        log.error(
            "request %s failed: strategy %s, seed %d", order.request_id, order.named.name, order.seed, exc_info=error
        )
        return internal()

"""The searches in flight. Each is a task of its own: what happens to a connection can end it, never its clean-up."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import replace
from typing import Any

from orchestrator.core.errors import LateError, PoolExhausted, ProblemError, PromptTooLong, ReplicaError, UserError
from orchestrator.core.nouns import EndReason, Problem, SearchResult
from orchestrator.core.protocols import Session
from orchestrator.search import SearchRuntime, solve
from orchestrator.serving.config import Limits
from orchestrator.serving.errors import ApiError, busy, internal, invalid, stopping, timed_out, unavailable
from orchestrator.serving.feed import Feed
from orchestrator.serving.orders import Answered, Order
from orchestrator.serving.showing import Shown, show, unwritten
from orchestrator.session import SearchSession

log = logging.getLogger(__name__)

_LAST_STEPS_S = 5.0  # beyond `limits.drain_s`: the last verdicts, and an answer to choose


class Search:
    """One search in flight. `accepted` is set once its prompt is known to fit, `feed` is what a stream tells of it.

    It runs outside the request's context: Ray would cancel what is called in there together with the request.
    """

    def __init__(self, run: Callable[["Search"], Coroutine[Any, Any, Answered]], feed: Feed | None) -> None:
        self.accepted = asyncio.Event()
        self.feed = feed
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

    @property
    def failed(self) -> bool:
        return self.task.done() and (self.task.cancelled() or self.task.exception() is not None)

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
        self._reads_text = runtime.verifier is not None and runtime.verifier.reads_text

    def __len__(self) -> int:
        return len(self._sessions)

    @property
    def draining(self) -> bool:
        return self._draining

    def check_room(self, num: int = 1) -> None:
        """Raises ApiError when so many searches can't begin now."""
        if self._draining:
            raise stopping()
        if len(self._sessions) + num > self._limits.max_concurrent:
            raise busy(self._limits.max_concurrent)

    def start(self, order: Order) -> list[Search]:
        """Begins a search for each problem, or none. Raises ApiError when there would be more than may be."""
        self.check_room(len(order.problems))
        if self._reads_text and any(isinstance(problem.raw, tuple) for problem in order.problems):
            raise invalid("prompt: this server's verifier reads text, got tokens", param="prompt")
        return [self._start(order, problem) for problem in order.problems]

    def _start(self, order: Order, problem: Problem) -> Search:
        feed = Feed(progress=order.events) if order.events or order.shows_early else None
        runtime = replace(self._runtime, sampling=order.sampling, budget=order.budget)
        session = runtime.session(order.seed, feed, streams=order.shows_early)
        search = Search(lambda search: self._run(order, problem, session, search), feed)
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

    async def _run(self, order: Order, problem: Problem, session: SearchSession, search: Search) -> Answered:
        """The search under its deadline. The one place where a fault becomes what a client is told."""
        prompt_ids: tuple[int, ...] = ()
        shown = Shown()

        async def accepted_and_searched(problem: Problem, _: Session) -> SearchResult:
            nonlocal prompt_ids, shown
            root = await session.start(problem)
            prompt_ids = root.prompt_ids
            if not prompt_ids:
                raise ProblemError("the prompt has no tokens")
            search.accepted.set()  # before a stream begins, which can't be refused
            result = await order.named.strategy.search(problem, session) if order.writes else unwritten(root)
            shown = await show(order, result, session)
            return result

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
        self._check(order, outcome.result)
        log.info("request %s: %s in %.3f s", order.request_id, outcome.result.end_reason.value, outcome.wall_s)
        return Answered(
            problem=problem,
            result=outcome.result,
            choices=shown.choices,
            prompt_read=shown.prompt,
            ledger=session.ledger,
            prompt_tokens=len(prompt_ids),
            wall_s=outcome.wall_s,
        )

    def _check(self, order: Order, result: SearchResult) -> None:
        """Raises ApiError for a result that is no answer to the order."""
        if result.chosen is None:
            raise invalid("the budget left no candidate to answer with", param="headrace")
        made = len(result.candidates)
        if order.choices > made and result.end_reason is EndReason.COMPLETED:
            name = order.named.name
            raise invalid(f"n: {name} with these parameters made {made} candidates, got n={order.choices}", param="n")
        if self._draining and not result.candidates[result.chosen].trajectory.steps:
            raise stopping()  # nothing was written yet: another server may do better

    def _told(self, error: Exception | None, order: Order) -> ApiError:
        if isinstance(error, LateError):
            return timed_out(self._limits.timeout_s)
        if isinstance(error, ProblemError):
            code = "context_length_exceeded" if isinstance(error, PromptTooLong) else None
            return invalid(str(error), param=order.asked_in, code=code)
        log.error(
            "request %s failed: strategy %s, seed %d", order.request_id, order.named.name, order.seed, exc_info=error
        )
        return internal()

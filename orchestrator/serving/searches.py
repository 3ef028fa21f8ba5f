"""The searches in flight. Each is a task of its own: what happens to a connection can end it, never its clean-up."""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from typing import Any

from orchestrator.core.errors import PoolExhausted, ProblemError, PromptTooLong, ReplicaError
from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Problem
from orchestrator.core.protocols import Answers, Policy, Verifier
from orchestrator.serving.config import Limits
from orchestrator.serving.errors import busy, internal, invalid, timed_out, unavailable
from orchestrator.serving.openai_api import Order, Outcome
from orchestrator.session import SearchSession

log = logging.getLogger(__name__)


class Search:
    """One search in flight. `accepted` is set once its prompt is known to fit."""

    def __init__(self, run: Callable[["Search"], Coroutine[Any, Any, Outcome]]) -> None:
        self.prompt_tokens = 0
        self._accepted = asyncio.Event()
        self.task = asyncio.create_task(run(self))

    def accept(self, prompt_tokens: int) -> None:
        self.prompt_tokens = prompt_tokens
        self._accepted.set()

    async def accepted(self) -> None:
        """Returns when the search has begun in earnest. Raises ApiError when it can't."""
        waiting = asyncio.create_task(self._accepted.wait())
        try:
            await asyncio.wait([waiting, self.task], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if self.task.done():
            self.outcome()

    def outcome(self) -> Outcome:
        """Of a search that is done. Raises ApiError."""
        if self.task.cancelled():
            raise unavailable("the server is stopping")
        return self.task.result()

    def cancel(self) -> None:
        """Nobody waits for it any more. Nothing happens to one that is done."""
        self.task.cancel()


class Searches:
    """Owner of the searches: at most `limits.max_concurrent`, each with a deadline."""

    def __init__(
        self,
        *,
        policy: Policy,
        verifier: Verifier | None,
        answers: Answers,
        budget: Budget,
        limits: Limits,
        on_exhausted: Callable[[PoolExhausted], None],
    ) -> None:
        self._policy = policy
        self._verifier = verifier
        self._answers = answers
        self._budget = budget
        self._limits = limits
        self._on_exhausted = on_exhausted
        self._tasks: set[asyncio.Task[Outcome]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def start(self, order: Order) -> Search:
        """Begins a search. Raises ApiError when there are as many as may be."""
        if len(self._tasks) >= self._limits.max_concurrent:
            raise busy(self._limits.max_concurrent)
        search = Search(lambda search: self._run(order, search))
        self._tasks.add(search.task)
        search.task.add_done_callback(self._ended)
        return search

    async def close(self) -> None:
        """Cancels what still runs and waits until all is cleaned up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Outcome]) -> None:
        self._tasks.discard(task)
        if not task.cancelled():
            task.exception()  # seen, also where the client has left; `_run` logged what needs a log

    async def _run(self, order: Order, search: Search) -> Outcome:
        """The search under its deadline. The one place where a fault becomes what a client is told."""
        limits = self._limits
        try:
            async with asyncio.timeout(limits.timeout_s) as deadline:
                return await self._search(order, search)
        except ProblemError as error:
            code = "context_length_exceeded" if isinstance(error, PromptTooLong) else None
            raise invalid(str(error), param="messages", code=code) from None
        except ReplicaError as error:
            log.warning("a request failed: %s", error)
            if isinstance(error, PoolExhausted):
                self._on_exhausted(error)
            raise unavailable("the model's workers are unavailable, try again later") from None
        except Exception as error:
            if isinstance(error, TimeoutError) and deadline.expired():
                raise timed_out(limits.timeout_s) from None
            log.exception("a request failed: strategy %s, seed %d", order.named.name, order.seed)
            raise internal() from None

    async def _search(self, order: Order, search: Search) -> Outcome:
        started = time.monotonic()
        # the id is the same for all, so that equal seeds mean equal draws
        problem = Problem(id="request", messages=order.messages)
        session = SearchSession(
            policy=self._policy,
            verifier=self._verifier,
            sampling=order.sampling,
            budget=self._budget,
            run_seed=order.seed,
            answers=self._answers,
        )
        async with session:
            root = await session.start(problem)  # before a stream begins: it may refuse the prompt
            search.accept(len(root.prompt_ids))
            result = await order.named.strategy.search(problem, session)
        assert result.chosen is not None, "a search ends with a candidate"
        return Outcome(
            result=result,
            ledger=session.ledger,
            prompt_tokens=search.prompt_tokens,
            wall_s=time.monotonic() - started,
        )

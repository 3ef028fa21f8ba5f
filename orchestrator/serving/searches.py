"""The searches in flight. Each is a task of its own: what happens to a connection can end it, never its clean-up."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextvars import Context
from dataclasses import dataclass, replace
from typing import Any

from opentelemetry.context import get_current
from opentelemetry.trace import Tracer

from orchestrator.core.errors import LateError, PoolExhausted, ProblemError, PromptTooLong, ReplicaError, UserError
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import EndReason, Problem, SearchResult
from orchestrator.core.protocols import ReadsCalls, Session
from orchestrator.core.search_events import Observer, SearchEvent
from orchestrator.search import SearchRuntime, solve
from orchestrator.serving.callers import Caller
from orchestrator.serving.config import Limits
from orchestrator.serving.errors import ApiError, internal, invalid, stopping, timed_out, unavailable
from orchestrator.serving.fair_queue import FairQueue
from orchestrator.serving.feed import Feed
from orchestrator.serving.orders import Answered, Order
from orchestrator.serving.showing import Shown, show, unwritten
from orchestrator.serving.spans import traced_search, traced_session, traced_verifier
from orchestrator.serving.traces import Recording, Traces
from orchestrator.session import SearchSession

log = logging.getLogger(__name__)

_INSTANT_S = 0.001  # what is left of a time that is over
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Live:
    """A search in flight, and on whose account."""

    session: SearchSession
    caller: Caller
    strategy: str


class Searches:
    """Owner of the searches: at most `limits.max_concurrent`, each with a deadline. More wait, each key in turn."""

    def __init__(
        self,
        *,
        runtime: SearchRuntime,
        limits: Limits,
        on_exhausted: Callable[[PoolExhausted], None],
        on_cost: Callable[[str, Ledger], None],
        tracer: Tracer | None = None,
        traces: Traces | None = None,
    ) -> None:
        """`runtime` says what all have in common; how a search samples is each request's own. `on_cost` is told what
        each search of a strategy has cost, however it ended."""
        if tracer is not None and runtime.verifier is not None:
            runtime = replace(runtime, verifier=traced_verifier(runtime.verifier, tracer))
        self._runtime = runtime
        self._on_cost = on_cost
        self._tracer = tracer
        self._traces = traces
        self._limits = limits
        self._on_exhausted = on_exhausted
        self._live: dict[asyncio.Task[Answered], _Live] = {}
        self._queue = FairQueue(limits.max_concurrent, limits.max_queued)
        self._draining = False
        policy = runtime.policy
        self._reads_calls = isinstance(policy, ReadsCalls) and policy.tool_parser is not None
        self._reads_text = runtime.verifier is not None and runtime.verifier.reads_text

    def __len__(self) -> int:
        return len(self._live)

    @property
    def num_queued(self) -> int:
        """Requests that wait for a place."""
        return len(self._queue)

    @property
    def draining(self) -> bool:
        return self._draining

    def check_room(self, caller: Caller) -> None:
        """Raises ApiError when a request would be refused at once."""
        self._queue.check_room(caller.name)

    async def start(self, order: Order, caller: Caller) -> list[Search]:
        """Begins a search for each problem, or none, once there is room for all. What they waited is taken from the
        time that they have. Raises ApiError when there would be more than may be."""
        order = caller.allow(order)
        if self._reads_text and any(isinstance(problem.raw, tuple) for problem in order.problems):
            raise invalid("prompt: this server's verifier reads text, got tokens", param="prompt")
        if not self._reads_calls and any(one.tools is not None and one.tools.parsed for one in order.problems):
            raise invalid(
                "tools: this server does not know the words in which its model calls tools; wanted the setting "
                "policy.tool_parser",
                param="tools",
            )
        clock = asyncio.get_running_loop().time
        asked_at, patience_s = clock(), min(self._limits.queue_timeout_s, order.budget.seconds or float("inf"))
        await self._queue.take(caller.name, len(order.problems), patience_s)
        waited_s = clock() - asked_at
        recording = None if self._traces is None else self._traces.begin(order, caller.name)
        return [self._start(order, problem, caller, waited_s, recording) for problem in order.problems]

    def _start(
        self, order: Order, problem: Problem, caller: Caller, waited_s: float, recording: Recording | None
    ) -> Search:
        budget = order.budget
        if budget.seconds is not None:
            budget = replace(budget, seconds=max(budget.seconds - waited_s, _INSTANT_S))
        recorder = None if recording is None else recording.search(problem)
        feed = Feed(progress=order.events) if order.events or order.shows_early else None
        runtime = replace(self._runtime, sampling=order.sampling, budget=budget)
        session = runtime.session(order.seed, _each(feed, recorder), streams=order.shows_early)
        timeout_s = max(self._limits.timeout_s - waited_s, _INSTANT_S)
        tracer, parent = self._tracer, get_current()

        def run(search: Search) -> Coroutine[Any, Any, Answered]:
            running = self._run(order, problem, session, search, timeout_s)
            return running if tracer is None else traced_search(tracer, parent, order, running)

        search = Search(run, feed)
        self._live[search.task] = _Live(session=session, caller=caller, strategy=order.named.name)
        search.task.add_done_callback(self._ended)
        if recorder is not None:
            search.task.add_done_callback(recorder.ended)
        return search

    async def drain(self) -> None:
        """Begins no more, and waits for those in flight: `limits.drain_s` from now each has the best found by then."""
        self._draining = True
        self._queue.close(stopping())
        for live in self._live.values():
            live.session.end_within(self._limits.drain_s)
        if self._live:
            await asyncio.wait(list(self._live), timeout=self._limits.drain_s + _LAST_STEPS_S)

    async def close(self) -> None:
        """Cancels what still runs and waits until all is cleaned up."""
        self._queue.close(stopping())
        tasks = list(self._live)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Answered]) -> None:
        live = self._live.pop(task)
        cost = live.session.ledger
        live.caller.spend(cost.generated_tokens + cost.prompt_tokens - cost.cached_tokens)
        self._on_cost(live.strategy, cost)
        self._queue.give_back()
        if not task.cancelled():
            task.exception()  # seen, also where the client has left; `_run` logged what needs a log

    async def _run(
        self, order: Order, problem: Problem, session: SearchSession, search: Search, timeout_s: float
    ) -> Answered:
        """The search under its deadline. The one place where a fault becomes what a client is told."""
        prompt_ids: tuple[int, ...] = ()
        shown = Shown()

        async def accepted_and_searched(problem: Problem, _: Session) -> SearchResult:
            nonlocal prompt_ids, shown
            root = await session.start(problem)
            prompt_ids = root.prompt_ids
            if not prompt_ids:
                raise ProblemError("the prompt has no tokens")
            most = self._limits.max_prompt_tokens
            if most is not None and len(prompt_ids) > most:
                raise PromptTooLong(f"the prompt has {len(prompt_ids)} tokens, this server takes at most {most}")
            search.accepted.set()  # before a stream begins, which can't be refused
            searched: Session = session if self._tracer is None else traced_session(session, self._tracer)
            result = await order.named.strategy.search(problem, searched) if order.writes else unwritten(root)
            shown = await show(order, result, session)
            return result

        try:
            outcome = await solve(problem, accepted_and_searched, session, timeout_s=timeout_s)
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


def _each(*observers: Observer | None) -> Observer | None:
    """One that tells all of them; None where there is none."""
    wanted = [observer for observer in observers if observer is not None]
    if len(wanted) < 2:
        return wanted[0] if wanted else None

    def tell(event: SearchEvent) -> None:
        for observer in wanted:
            observer(event)

    return tell

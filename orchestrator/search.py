"""The one boundary between sessions and what runs them: composing a session, solving one problem, working on many."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from orchestrator.core.account import Account
from orchestrator.core.errors import LateError, ReplicaError, UserError, first_error
from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Problem, SearchResult, Selection
from orchestrator.core.protocols import Answers, Policy, Sampling, Session, Verifier, Workload
from orchestrator.core.search_events import Observer
from orchestrator.session import SearchSession

T = TypeVar("T")
Search = Callable[[Problem, Session], Awaitable[SearchResult]]
"""`Strategy.search`."""


class SessionOfSeed(Protocol):
    def __call__(self, seed: int, observer: Observer | None = None) -> SearchSession:
        """The session of one search. The observer, if there is one, is told what happens."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchRuntime:
    """What the searches of a command run on, and under which limits. `dataclasses.replace` makes a variant."""

    policy: Policy
    verifier: Verifier | None
    answers: Answers
    sampling: Sampling
    budget: Budget = field(default_factory=Budget)  # of each search
    run_account: Account | None = None  # of all of them together
    speculation: int = 0
    selection: Selection = Selection.SCORE

    def session(self, seed: int, observer: Observer | None = None, *, streams: bool = False) -> SearchSession:
        """The session of one search: one seed gives one search the same draws again. The observer, if there is one, is
        told what happens; with `streams` also the text of the one trajectory that is written, token by token."""
        return SearchSession(
            policy=self.policy,
            verifier=self.verifier,
            sampling=self.sampling,
            budget=self.budget,
            run_seed=seed,
            answers=self.answers,
            speculation=self.speculation,
            run_account=self.run_account,
            selection=self.selection,
            observer=observer,
            streams=streams,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What a search came to: its result, or why it has none."""

    result: SearchResult | None
    error: Exception | None
    wall_s: float  # without the time that it waited for its turn in a workload


async def solve(
    problem: Problem,
    search: Search,
    session: SearchSession,
    *,
    timeout_s: float,
    workload: Workload | None = None,
) -> Outcome:
    """Searches and leaves the session. A result says what it cost, and where a budget cut it short.

    What goes wrong with this problem alone is in the outcome, `LateError` among it. Raises UserError and ReplicaError,
    which concern every problem.
    """
    started = time.monotonic()
    turns: _Turns | None = None
    result: SearchResult | None = None
    failure: Exception | None = None
    try:
        async with asyncio.timeout(timeout_s) as deadline, session:
            if workload is not None:
                session.workload = turns = _Turns(workload, deadline)
            result = await search(problem, session)
        result = replace(session.with_end_reason(result), ledger=session.ledger)
        session.tell(result)
    except (UserError, ReplicaError):
        raise
    except Exception as error:
        result, failure = None, _late(error, deadline, f"no answer after {timeout_s:g} s")
    finally:
        if workload is not None:
            workload.leave(problem.id)  # the others wait for its bid, also where its search did not begin
    waited_s = 0.0 if turns is None else turns.waited_s
    return Outcome(result=result, error=failure, wall_s=time.monotonic() - started - waited_s)


def told(error: Exception) -> str:
    """An error in a row or a report: a deadline in its own words, anything else with its type."""
    return str(error) if isinstance(error, LateError) else f"{type(error).__name__}: {error}"


async def for_each(items: Iterable[T], work: Callable[[T], Awaitable[None]], *, in_flight: int) -> None:
    """Works on the items, at most `in_flight` at a time. The first error ends it, after the items in flight were
    cancelled."""

    async def take(queue: Iterator[T]) -> None:
        for item in queue:
            await work(item)

    queue = iter(items)
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(take(queue))
    except ExceptionGroup as group:
        raise first_error(group) from None


async def for_each_problem(
    problems: Sequence[Problem],
    work: Callable[[Problem], Awaitable[None]],
    *,
    in_flight: int,
    timeout_s: float,
    on_problem: Callable[[str | None], None],
) -> dict[str, str]:
    """As `for_each`, but a problem that fails is reported and the others go on: the errors by the problems' ids.

    `on_problem` is called at the end of each with its error or None. Raises UserError and ReplicaError.
    """
    failed: dict[str, str] = {}

    async def attempt(problem: Problem) -> None:
        error = None
        try:
            async with asyncio.timeout(timeout_s) as deadline:
                await work(problem)
        except (UserError, ReplicaError):
            raise
        except Exception as problem_error:
            failed[problem.id] = error = told(_late(problem_error, deadline, f"not done in {timeout_s:g} s"))
        on_problem(error)

    await for_each(problems, attempt, in_flight=in_flight)
    return failed


def _late(error: Exception, deadline: asyncio.Timeout, words: str) -> Exception:
    """The error, or what to say of a deadline that has passed."""
    return LateError(words) if isinstance(error, TimeoutError) and deadline.expired() else error


class _Turns:
    """A workload as one search sees it: the search's time stands still while it waits for its turn."""

    def __init__(self, workload: Workload, deadline: asyncio.Timeout) -> None:
        self._workload = workload
        self._deadline = deadline
        self.waited_s = 0.0

    async def grant(self, problem_id: str, *, gain: float, samples: int) -> int:
        clock = asyncio.get_running_loop().time
        started, end = clock(), self._deadline.when()
        assert end is not None, "a search waits for one grant at a time"
        self._deadline.reschedule(None)
        try:
            return await self._workload.grant(problem_id, gain=gain, samples=samples)
        finally:
            waited_s = clock() - started
            self.waited_s += waited_s
            self._deadline.reschedule(end + waited_s)

    def leave(self, problem_id: str) -> None:
        self._workload.leave(problem_id)

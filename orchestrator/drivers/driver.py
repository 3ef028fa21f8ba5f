"""A driver of a run: a Ray actor that opens the run's pool and solves the jobs that it is given."""

import asyncio
import gc
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from orchestrator.answers import open_answers
from orchestrator.child_processes import end_children_with_this_process
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import ReplicaError, UserError
from orchestrator.core.ledger import Budget, Remaining
from orchestrator.core.nouns import Selection
from orchestrator.core.protocols import Answers, Sampling
from orchestrator.drivers.grants import SharedWorkload
from orchestrator.drivers.leases import LeasedAccount
from orchestrator.drivers.mailbox import Ask, Mailbox, Take
from orchestrator.pools.open import open_pools
from orchestrator.replicas.members import Health
from orchestrator.runner import Grader, Job, RunInfo, Solved, solve_job
from orchestrator.search import SearchRuntime
from orchestrator.verifier.resolve import ResolvedVerifier


@dataclass(frozen=True, slots=True, kw_only=True)
class DriverSetup:
    """What each driver of a run works with. It can be pickled."""

    pool: str
    policy: PolicyConfig
    steps: StepConfig
    verifier: ResolvedVerifier | None
    sampling: Sampling
    budget: Budget
    run_budget: Budget
    speculation: int
    selection: Selection
    answers: tuple[str, AnswerFormat]  # as `open_answers` takes them
    grader_of: Callable[[Answers], Grader]
    info: RunInfo
    timeout_s: float
    keep_trees: bool = False


class Driver:
    """Owner of the pools' clients, the answers, and the driver's part of the run's budget. `begin` and `load` come
    first."""

    def __init__(self, setup: DriverSetup) -> None:
        self._setup = setup
        self._hosting: asyncio.Task[None] | None = None
        self._end = asyncio.Event()

    async def begin(self) -> tuple[int, str]:
        """Its process id and its machine. From now on no child of this process outlives it."""
        end_children_with_this_process()
        return os.getpid(), socket.gethostname()

    async def load(self) -> None:
        """Raises UserError and ReplicaError."""
        opened: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._hosting = asyncio.create_task(self._host(opened))
        await asyncio.wait([opened, self._hosting], return_when=asyncio.FIRST_COMPLETED)
        if self._hosting.done():
            self._hosting.result()

    async def health(self) -> Health:
        """That it answers is all that there is to know: its searches have deadlines of their own."""
        return Health(busy=False, progress=0)

    async def solve(self, job: Job, number: int, remaining: Remaining, *, shares: bool) -> Solved | Exception:
        """What became of the job; or what concerns every job, UserError or ReplicaError, as a value: what is raised
        here is the driver's own fault. `shares`: it takes turns in a workload."""
        self._account.update(remaining)
        workload = SharedWorkload(self._mailbox, number) if shares else None
        try:
            return await solve_job(
                job,
                workload,
                session_of=self._runtime.session,
                grader=self._grader,
                info=self._setup.info,
                timeout_s=self._setup.timeout_s,
                keep_tree=self._setup.keep_trees,
            )
        except (UserError, ReplicaError) as error:
            return error

    async def asks(self, wait_s: float) -> Sequence[tuple[int, Ask]]:
        return await self._mailbox.fetch(wait_s)

    async def answer(self, number: int, answer: Any) -> None:
        self._mailbox.answer(number, answer)

    async def stop(self) -> None:
        self._end.set()
        if self._hosting is not None:
            await asyncio.gather(self._hosting, return_exceptions=True)

    async def _host(self, opened: asyncio.Future[None]) -> None:
        """One task enters and leaves all that is open."""
        setup = self._setup
        async with AsyncExitStack() as stack:
            policy, verifier = await open_pools(
                stack, policy=setup.policy, steps=setup.steps, verifier=setup.verifier, pool=setup.pool
            )
            answers = await stack.enter_async_context(open_answers(*setup.answers))
            self._mailbox = Mailbox()
            self._account = LeasedAccount(
                setup.run_budget, lambda wanted: self._mailbox.ask(Take(wanted=wanted)), self._mailbox.post
            )
            self._grader = setup.grader_of(answers)
            self._runtime = SearchRuntime(
                policy=policy,
                verifier=verifier,
                answers=answers,
                sampling=setup.sampling,
                budget=setup.budget,
                run_account=self._account,
                speculation=setup.speculation,
                selection=setup.selection,
            )
            gc.collect()
            gc.freeze()  # what was loaded stays: a collection need not look through it again
            opened.set_result(None)
            await self._end.wait()

"""The drivers of a run, as the command that started them sees them: it gives each search to the least busy one.

A driver is restarted when it dies. A job is done when its row has come back, so that the jobs of a dead driver are
given to others, and each row comes back once.
"""

import asyncio
import itertools
import logging
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.core.account import Account
from orchestrator.core.errors import first_error
from orchestrator.core.protocols import Workload
from orchestrator.drivers.driver import Driver, DriverSetup
from orchestrator.drivers.grants import Grants
from orchestrator.drivers.leases import Leases
from orchestrator.drivers.mailbox import Ask, Settle, Take, Turn
from orchestrator.ray_calls import ReplicaBroken, ReplicaLost, answered, submit
from orchestrator.replicas.blueprint import Blueprint
from orchestrator.replicas.keeper import Keeper
from orchestrator.replicas.members import Member
from orchestrator.runner import Job, Solved

log = logging.getLogger(__name__)

_MAX_RESTARTS = 3  # of each, within an hour
_START_TIMEOUT_S = 300.0
_STALL_TIMEOUT_S = 120.0  # without an answer
_POLL_S = 20.0
_EVER = float("inf")  # the keeper ends a driver that does not answer, and so the call


class Drivers:
    """Owner of the drivers, of the leases on the run's budget, and of the tasks that serve what drivers ask."""

    def __init__(self, keeper: Keeper, account: Account, tasks: asyncio.TaskGroup) -> None:
        """Use `open`."""
        self._keeper = keeper
        self._account = account
        self._leases = Leases(account)
        self._numbers = itertools.count()
        self._grants: dict[int, Grants] = {}  # by job
        self._num_solving: Counter[int] = Counter()  # by place
        self._given_up: dict[int, tuple[int, int]] = {}  # the term of a place after which a driver may be used
        self._attended: set[tuple[int, int]] = set()  # (place, epoch) of the drivers whose questions are served
        self._tasks = tasks

    @classmethod
    @asynccontextmanager
    async def open(cls, setup: DriverSetup, *, num: int, account: Account) -> AsyncIterator["Drivers"]:
        """So many, ready to solve. `account`: the run's. Raises UserError, ReplicaError."""
        keeper = Keeper(_blueprint(setup, num))
        try:
            await keeper.open()
            async with _ended_together() as tasks:
                yield cls(keeper, account, tasks)
        finally:
            await keeper.close()

    async def solve(self, job: Job, workload: Workload | None) -> Solved:
        """As `runner.solve_job`, in one of the drivers. Raises PoolExhausted when none is left."""
        number = next(self._numbers)
        if workload is not None:
            self._grants[number] = Grants(workload, job.problem.id)
        try:
            while True:
                driver = await self._least_busy()
                try:
                    solved = await self._solve_in(driver, job, number)
                except ReplicaLost as error:
                    log.warning("%s was lost: its searches are begun again: %s", _who(driver), error)
                    self._give_up(driver, error)
                    continue
                if isinstance(solved, Exception):
                    raise solved
                return solved
        finally:
            if grants := self._grants.pop(number, None):
                grants.close()

    async def _solve_in(self, driver: Member, job: Job, number: int) -> Solved | Exception:
        """As `Driver.solve`. Raises ReplicaLost when the driver dies."""
        self._num_solving[driver.index] += 1
        try:
            remaining, shares = self._account.remaining, number in self._grants
            call = submit(lambda: driver.actor.solve.remote(job, number, remaining, shares=shares))
            solved: Solved | Exception = await answered(call, _who(driver), _EVER)
            return solved
        finally:
            self._num_solving[driver.index] -= 1

    async def _least_busy(self) -> Member:
        """Waits for one that serves. Raises PoolExhausted."""
        while True:
            members = self._keeper.current
            serving = [one for one in members.serving if one.term > self._given_up.get(one.index, (-1, -1))]
            if serving:
                driver = min(serving, key=lambda one: (self._num_solving[one.index], one.index))
                self._attend(driver)
                return driver
            if members.exhausted is not None:
                raise members.exhausted
            await self._keeper.after(members.version)

    def _give_up(self, driver: Member, error: ReplicaLost) -> None:
        """It is ended, also where it lives and calls to it were lost: its searches are begun again, what it was lent
        counts as spent, and what it asked may be lost."""
        self._given_up[driver.index] = max(driver.term, self._given_up.get(driver.index, (-1, -1)))
        self._keeper.report(driver, ReplicaBroken(str(error)))

    def _attend(self, driver: Member) -> None:
        if (driver.index, driver.epoch) not in self._attended:
            self._attended.add((driver.index, driver.epoch))
            self._tasks.create_task(self._serve(driver))

    async def _serve(self, driver: Member) -> None:
        """Answers what a driver asks for as long as it lives."""
        lease = (driver.index, driver.epoch)
        try:
            while True:
                call = submit(lambda: driver.actor.asks.remote(_POLL_S))
                for number, ask in await answered(call, _who(driver), _EVER):
                    self._answer(driver, number, ask)
        except ReplicaLost as error:
            self._leases.lost(lease)
            self._attended.discard(lease)
            self._give_up(driver, error)

    def _answer(self, driver: Member, number: int, ask: Ask) -> None:
        lease = (driver.index, driver.epoch)
        match ask:
            case Take():
                given = self._leases.take(lease, ask.wanted)
                submit(lambda: driver.actor.answer.remote(number, given))
            case Settle():
                self._leases.settle(lease, ask)
            case Turn():
                if grants := self._grants.get(ask.job):
                    self._tasks.create_task(self._take_turn(driver, number, ask, grants))

    async def _take_turn(self, driver: Member, number: int, turn: Turn, grants: Grants) -> None:
        granted = await grants.turn(turn.number, gain=turn.gain, samples=turn.samples)
        submit(lambda: driver.actor.answer.remote(number, granted))


@asynccontextmanager
async def _ended_together() -> AsyncIterator[asyncio.TaskGroup]:
    """Tasks that end with the context, and end it when one of them fails."""
    try:
        async with asyncio.TaskGroup() as tasks:
            yield tasks
            raise _Over
    except ExceptionGroup as group:
        error = first_error(group)
        if not isinstance(error, _Over):
            raise error from None


class _Over(Exception):
    """The context is left."""


def _blueprint(setup: DriverSetup, num: int) -> Blueprint:
    return Blueprint(
        kind="driver",
        actor=Driver,
        arguments=lambda index: (setup,),
        options=lambda: {"num_cpus": 0, "scheduling_strategy": "SPREAD"},  # a pool may have set all cores aside
        replicas=num,
        max_restarts=_MAX_RESTARTS,
        start_timeout_s=_START_TIMEOUT_S,
        stall_timeout_s=_STALL_TIMEOUT_S,
    )


def _who(driver: Member) -> str:
    return f"driver {driver.index}"

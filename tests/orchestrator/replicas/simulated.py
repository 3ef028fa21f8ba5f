"""A named pool of a policy and its drivers in one event loop with a controlled clock: the real keeper, members, pools,
hosts and leases."""

import asyncio
import itertools
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from typing import Any

from ray.exceptions import ActorDiedError

from orchestrator.core.account import Account, Amounts
from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import PoolExhausted
from orchestrator.core.ledger import Budget
from orchestrator.core.protocols import Generation
from orchestrator.drivers.leases import LeasedAccount, Leases
from orchestrator.drivers.mailbox import Given
from orchestrator.policy import PolicyPool
from orchestrator.policy import blueprint as policies
from orchestrator.policy.admission import Admission
from orchestrator.policy.engines.contract import PolicyInfo
from orchestrator.policy.host import PolicyHost
from orchestrator.pools.client import RemoteMembership
from orchestrator.pools.service import BEAT_S
from tests.orchestrator.policy.test_pool_failures import INFO, CountingEngine, expected
from tests.orchestrator.replicas.processes import NamedPool, Replica, shrinking

CAP = 10_000  # tokens of the run's budget
TOKEN_S = 0.5  # for a token of each sequence


class SlowEngine(CountingEngine):
    """Takes its time for each token."""

    async def stream(self, name: str, generation: Generation, stop_token_ids: Any) -> Any:
        async with aclosing(super().stream(name, generation, stop_token_ids)) as deltas:
            async for delta in deltas:
                await asyncio.sleep(TOKEN_S)
                yield delta


class Engine(Replica):
    """A replica."""

    def __init__(self, name: str, config: PolicyConfig, steps: StepConfig, *_: Any) -> None:
        super().__init__(name)
        self.engine = SlowEngine()
        admission = Admission(capacity_tokens=INFO.kv_capacity_tokens, max_num_seqs=INFO.max_num_seqs)
        clock = asyncio.get_running_loop().time
        self.host = PolicyHost(self.engine, steps, admission=admission, clock=clock)
        self._watching = asyncio.ensure_future(self.host.watch())

    @property
    def life(self) -> PolicyHost:
        return self.host

    async def opened(self) -> PolicyInfo:
        return INFO

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """What it has, by client and the client's number for it."""
        return [(name, number) for name, client in self.host._clients.items() for number in client.jobs]

    async def end(self) -> None:
        await super().end()
        self._watching.cancel()
        await self.host.stop()


@dataclass(eq=False)
class Asked:
    """A request of a driver. It ends once: with all its tokens, or an error that says why not."""

    generation: Generation
    task: asyncio.Task[None]
    tokens: list[int] = field(default_factory=list)
    ends: list[str] = field(default_factory=list)


class Driver:
    """A process that uses the pool, with its part of the run's budget."""

    def __init__(self, world: "World", number: int) -> None:
        self.world, self.number, self.name = world, number, f"driver{number}"
        self.asked: list[Asked] = []
        self.pool: PolicyPool | None = None
        self.failure: BaseException | None = None
        self._leaving = asyncio.Event()

        async def take(wanted: Amounts) -> Given:
            await asyncio.sleep(0.1)
            return world.leases.take(number, wanted)

        self.account = LeasedAccount(
            Budget(policy_tokens=CAP), take, lambda settled: world.leases.settle(number, settled)
        )
        self.account.update(world.account.remaining)
        self.life = asyncio.ensure_future(self._live())
        self._beating = asyncio.ensure_future(self._beat())

    async def _live(self) -> None:
        keeper = self.world.keeper
        async with AsyncExitStack() as stack:
            await self._join()
            membership = RemoteMembership(keeper, "simulated", "policy")
            members = await membership.after(-1)
            while not members.serving:
                members = await membership.after(members.version)
            self.pool = await stack.enter_async_context(PolicyPool.attached(self.world.config, membership, self.name))
            await self._leaving.wait()
        self._beating.cancel()
        await asyncio.gather(keeper.leave.remote(self.name), return_exceptions=True)

    async def _join(self) -> None:
        """Tries again while there is no keeper, as a user would."""
        while True:
            try:
                await self.world.keeper.join.remote(self.name)
                return
            except ActorDiedError:
                await asyncio.sleep(1.0)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self.world.keeper.beat.remote(self.name)

    def ask(self, start: int, max_tokens: int) -> None:
        generation = Generation(
            prefix_ids=tuple(range(start)), max_tokens=max_tokens, seed=0, temperature=1.0, top_p=1.0
        )
        asked = Asked(generation=generation, task=None)  # type: ignore[arg-type]
        asked.task = asyncio.ensure_future(self._write(asked))
        self.asked.append(asked)

    async def _write(self, asked: Asked) -> None:
        assert self.pool is not None
        most = {"policy_tokens": asked.generation.max_tokens}
        await self.account.secure(most)
        if not self.account.fits(most):
            asked.ends.append("over budget")
            return
        hold = self.account.hold(most)
        try:
            async with aclosing(self.pool.generate([asked.generation])) as segments:
                async for _, segment in segments:
                    asked.tokens += segment.token_ids
                    hold.use(policy_tokens=len(segment.token_ids))
            asked.ends.append("written")
        except PoolExhausted:
            asked.ends.append("exhausted")
        except asyncio.CancelledError:
            asked.ends.append("cancelled")
        finally:
            hold.close()

    @property
    def is_done(self) -> bool:
        """It is attached, and nothing that it asked for is under way."""
        return self.pool is not None and all(asked.task.done() for asked in self.asked)

    def leave(self) -> None:
        """In order, once nothing is under way."""
        self._leaving.set()

    async def die(self) -> None:
        """At once: it settles nothing, and says nothing to anybody."""
        tasks = [self._beating, self.life, *(asked.task for asked in self.asked)]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class World(NamedPool):
    """Owner of all processes."""

    def __init__(self, config: PolicyConfig, *, forgets_s: float, shrinks_s: float = 300.0) -> None:
        """`shrinks_s`: without enough to do for all replicas."""
        made = policies.policy_blueprint(config, StepConfig())
        super().__init__("policy", shrinking(made, down_after_s=shrinks_s), Engine, forgets_s=forgets_s)
        self.patches.setattr(policies, "resources", lambda config: {})
        self.config = config
        self.drivers: list[Driver] = []
        self.account = Account(Budget(policy_tokens=CAP))
        self.leases = Leases(self.account)
        self._numbers = itertools.count()
        self.open()

    @property
    def engines(self) -> list[Engine]:
        return self.replicas

    def join(self) -> None:
        self.drivers.append(Driver(self, next(self._numbers)))

    async def driver_dies(self, driver: Driver) -> None:
        self.drivers.remove(driver)
        await driver.die()
        self.leases.lost(driver.number)

    async def end(self) -> None:
        for driver in self.drivers:
            await driver.die()
        await super().end()

    # what must hold at any time

    def check(self) -> None:
        for driver in self.drivers:
            if driver.life.done():
                driver.life.result()
            if driver.pool is not None:
                _check_places(driver.pool)
        remaining = self.account.left("policy_tokens")
        assert remaining is not None and remaining >= 0, "the run's budget is exceeded"
        for driver in self.drivers:
            for asked in driver.asked:
                _check_ends(asked)


def _check_places(pool: PolicyPool) -> None:
    """Each request is in one place at most, and there only under one number."""
    waiting = [request for request in pool._waiting if not request.done]
    assert len(waiting) == len(set(map(id, waiting))), "a request waits twice"
    placed: list[int] = []
    for replica in pool._serving.values():
        for number, request in replica.requests.items():
            assert request.place == (replica, number)
            placed.append(id(request))
    assert len(placed) == len(set(placed)), "a request is in two replicas"
    assert not set(placed) & {id(request) for request in waiting}, "a request waits, and is in a replica"


def _check_ends(asked: Asked) -> None:
    assert len(asked.ends) <= 1, asked.ends
    if asked.task.done() and not asked.task.cancelled():
        assert asked.task.exception() is None
        assert asked.ends, "a request ended without a word"
    wanted = expected(asked.generation)
    assert asked.tokens == wanted[: len(asked.tokens)], "tokens were lost, or came twice"
    if asked.ends == ["written"]:
        assert asked.tokens == wanted

"""A named pool and its drivers in one event loop with a controlled clock: the real keeper, members, pools, hosts and
leases. Their processes are made up, and die, stall and come back as a test says."""

import asyncio
import itertools
from collections.abc import Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
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
from orchestrator.policy.host import PolicyHost
from orchestrator.pools import service
from orchestrator.pools.client import RemoteMembership
from orchestrator.pools.service import BEAT_S, PoolActor
from orchestrator.replicas import blueprint as blueprints
from orchestrator.replicas import keeper as keepers
from tests.orchestrator.policy.test_pool_failures import INFO, CountingEngine, expected

CAP = 10_000  # tokens of the run's budget
TOKEN_S = 0.5  # for a token of each sequence
LOAD_S = 20.0
BACK_S = 3.0  # until Ray has started a dead keeper again


class SlowEngine(CountingEngine):
    """Takes its time for each token."""

    async def stream(self, name: str, generation: Generation, stop_token_ids: Any) -> Any:
        async with aclosing(super().stream(name, generation, stop_token_ids)) as deltas:
            async for delta in deltas:
                await asyncio.sleep(TOKEN_S)
                yield delta


class Process:
    """Looks like a handle to an actor: `process.method.remote(...)`."""

    def __init__(self) -> None:
        self.dead = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()

    def method(self, name: str) -> Callable[..., Any]:
        raise NotImplementedError

    def __getattr__(self, name: str) -> Any:
        def remote(*args: Any) -> asyncio.Future[Any]:
            """The call is under way whether or not somebody waits for its answer."""
            answer = asyncio.ensure_future(self._call(name, *args))
            answer.add_done_callback(lambda answer: answer.cancelled() or answer.exception())
            return answer

        return SimpleNamespace(remote=remote)

    async def _call(self, name: str, *args: Any) -> Any:
        work, death = asyncio.ensure_future(self._work(name, *args)), asyncio.ensure_future(self.dead.wait())
        try:
            await asyncio.wait([work, death], return_when=asyncio.FIRST_COMPLETED)
            if self.dead.is_set():
                raise ActorDiedError
            return work.result()
        finally:
            work.cancel()
            death.cancel()

    async def _work(self, name: str, *args: Any) -> Any:
        await self.answering.wait()
        answer = self.method(name)(*args)
        return await answer if asyncio.iscoroutine(answer) else answer


class Engine(Process):
    """A replica."""

    def __init__(self, name: str, steps: StepConfig) -> None:
        super().__init__()
        self.name = name
        self.engine = SlowEngine()
        admission = Admission(capacity_tokens=INFO.kv_capacity_tokens, max_num_seqs=INFO.max_num_seqs)
        clock = asyncio.get_running_loop().time
        self.host = PolicyHost(self.engine, steps, admission=admission, clock=clock)
        self.loaded = False
        self._watching = asyncio.ensure_future(self.host.watch())

    def method(self, name: str) -> Callable[..., Any]:
        own = {"begin": self._begin, "load": self._load, "described": self._described, "stop": self.host.stop}
        return own.get(name) or getattr(self.host, name)

    def _begin(self) -> tuple[int, str]:
        return id(self), "here"

    async def _load(self) -> Any:
        await asyncio.sleep(LOAD_S)
        self.loaded = True
        return INFO

    def _described(self) -> Any:
        return (id(self), "here", INFO) if self.loaded else None

    @property
    def jobs(self) -> list[tuple[str, int]]:
        """What it has, by client and the client's number for it."""
        return [(name, number) for name, client in self.host._clients.items() for number in client.jobs]

    async def end(self) -> None:
        self.dead.set()
        self._watching.cancel()
        await self.host.stop()


class KeeperProcess(Process):
    """The actor of the pool. Ray starts it again when it dies."""

    def __init__(self, world: "World") -> None:
        super().__init__()
        self._world = world
        self.life = PoolActor(world.spec, True)  # type: ignore[arg-type]

    def method(self, name: str) -> Callable[..., Any]:
        return getattr(self.life, name)  # type: ignore[no-any-return]


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


class World:
    """Owner of all processes."""

    def __init__(self, config: PolicyConfig, *, forgets_s: float, shrinks_s: float = 300.0) -> None:
        """`forgets_s`: after which a loss is forgotten. `shrinks_s`: without enough to do for all replicas."""
        self.config = config
        self.engines: list[Engine] = []
        self.no_room = False  # for another engine
        self.keeper_is_back = False
        self.drivers: list[Driver] = []
        self.account = Account(Budget(policy_tokens=CAP))
        self.leases = Leases(self.account)
        self._numbers = itertools.count()
        self._keeper_dies = False
        made = policies.policy_blueprint(config, StepConfig())
        if made.scaling is not None:
            made = replace(made, scaling=replace(made.scaling, down_after_s=shrinks_s))
        self.spec = SimpleNamespace(name="simulated", blueprints=lambda: {"policy": made})
        now = asyncio.get_running_loop().time
        clock = SimpleNamespace(monotonic=now, time_ns=lambda: 10**18 + int(now() * 10**9))
        self._patches = pytest.MonkeyPatch()
        for module, name, stand_in in (
            (keepers, "_FORGETS_S", forgets_s),
            (keepers, "time", clock),
            (service, "time", clock),
            (blueprints, "create_actor", self._create),
            (blueprints, "kill_actor", self._kill),
            (blueprints, "free_resources", dict),
            (blueprints, "named_actors", lambda namespace: [engine.name for engine in self.alive]),
            (blueprints, "actor_named", self._named),
            (policies, "resources", lambda config: {}),
            (service, "was_restarted", lambda: self.keeper_is_back),
            (service, "_end_replicas", lambda pool: None),
        ):
            self._patches.setattr(module, name, stand_in)
        self.keeper = KeeperProcess(self)
        self.keeper.open.remote()

    @property
    def alive(self) -> list[Engine]:
        return [engine for engine in self.engines if not engine.dead.is_set()]

    @property
    def num_loaded(self) -> int:
        return sum(engine.loaded for engine in self.alive)

    def _create(self, cls: type, config: PolicyConfig, steps: StepConfig, *_: Any, **options: Any) -> Engine:
        self.engines.append(Engine(options["name"], steps))
        if self.no_room:
            self.engines[-1].answering.clear()
        return self.engines[-1]

    def _kill(self, engine: Engine) -> None:
        if not self._keeper_dies:  # what is dead kills nothing
            engine.dead.set()

    def _named(self, name: str, namespace: str) -> Engine | None:
        return next((engine for engine in self.alive if engine.name == name), None)

    def join(self) -> None:
        self.drivers.append(Driver(self, next(self._numbers)))

    async def driver_dies(self, driver: Driver) -> None:
        self.drivers.remove(driver)
        await driver.die()
        self.leases.lost(driver.number)

    async def keeper_dies(self, back_s: float = BACK_S) -> None:
        """And is back after a while."""
        life, self._keeper_dies = self.keeper.life, True
        tasks = [life._opening, life._watching, *(t for keeper in life._keepers.values() for t in keeper._tasks)]
        for task in (going := [task for task in tasks if task is not None]):
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        self._keeper_dies = False
        dead, self.keeper_is_back = self.keeper, True
        dead.dead.set()
        await asyncio.sleep(back_s)
        dead.life = PoolActor(self.spec, True)  # type: ignore[arg-type]
        dead.dead = asyncio.Event()  # the same handle reaches it

    async def end(self) -> None:
        try:
            for driver in self.drivers:
                await driver.die()
            await asyncio.sleep(1.0)  # what they had asked for comes
            await self.keeper.life.close()
            for engine in self.engines:
                await engine.end()
        finally:
            self._patches.undo()

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

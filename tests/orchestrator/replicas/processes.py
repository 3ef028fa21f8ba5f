"""The processes of a named pool, made up in one event loop with a controlled clock: they answer as Ray's actors do, and
die, stall and come back as a test says. What runs in them is real."""

import asyncio
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from orchestrator.core.errors import ReplicaError
from orchestrator.pools import service
from orchestrator.pools.service import PoolActor
from orchestrator.replicas import blueprint as blueprints
from orchestrator.replicas import keeper as keepers
from orchestrator.replicas.blueprint import Blueprint

LOAD_S = 20.0
BACK_S = 3.0  # until Ray has started a dead keeper again


class Reference:
    """Looks like Ray's: what a call returns. The call goes on whether or not somebody waits for it."""

    def __init__(self) -> None:
        self._answer: Future[Any] = Future()

    def future(self) -> Future[Any]:
        mine: Future[Any] = Future()  # to give it up ends nothing for others
        self._answer.add_done_callback(lambda answer: mine.cancelled() or _copy(answer, mine))
        return mine

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.wrap_future(self.future()).__await__()

    def put(self, work: asyncio.Future[Any]) -> None:
        """The call has ended."""
        if work.cancelled():
            self._answer.set_exception(ActorDiedError())
        else:
            _copy(work, self._answer)

    def part(self, index: int) -> "Reference":
        """One of the values of a call that returns several."""
        part = Reference()

        def put(answer: Future[Any]) -> None:
            if (error := answer.exception()) is not None:
                part._answer.set_exception(error)
            else:
                part._answer.set_result(answer.result()[index])

        self._answer.add_done_callback(put)
        return part


def _copy(source: Any, target: Future[Any]) -> None:
    if (error := source.exception()) is not None:
        target.set_exception(error)
    else:
        target.set_result(source.result())


class Process:
    """Looks like a handle to an actor: `process.method.remote(...)`."""

    def __init__(self) -> None:
        self.dead = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self._cut = asyncio.Event()  # set, and replaced, whenever what is under way loses its connection
        self._under_way: set[asyncio.Task[Any]] = set()

    def method(self, name: str) -> Callable[..., Any]:
        raise NotImplementedError

    async def end(self) -> None:
        """Nothing of it is left."""
        self.dead.set()
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    def cut_off(self) -> None:
        """Calls that are under way fail for those who wait, and go on here."""
        self._cut.set()
        self._cut = asyncio.Event()

    def __getattr__(self, name: str) -> Any:
        def remote(*args: Any, **options: Any) -> Reference:
            reference = Reference()
            call = asyncio.ensure_future(self._call(name, args, options))
            self._under_way.add(call)
            call.add_done_callback(self._under_way.discard)
            call.add_done_callback(reference.put)
            return reference

        def several(num_returns: int) -> Any:
            def remotes(*args: Any) -> list[Reference]:
                whole = remote(*args)
                return [whole.part(index) for index in range(num_returns)]

            return SimpleNamespace(remote=remotes)

        return SimpleNamespace(remote=remote, options=several)

    async def _call(self, name: str, args: Sequence[Any], options: dict[str, Any]) -> Any:
        work = asyncio.ensure_future(self._work(name, args, options))
        self._under_way.add(work)
        work.add_done_callback(self._under_way.discard)
        work.add_done_callback(lambda work: work.cancelled() or work.exception())
        death, cut = asyncio.ensure_future(self.dead.wait()), asyncio.ensure_future(self._cut.wait())
        try:
            await asyncio.wait([work, death, cut], return_when=asyncio.FIRST_COMPLETED)
            if self.dead.is_set():
                work.cancel()
                raise ActorDiedError
            if not work.done():
                raise ActorUnavailableError("the connection is lost", None)
            return work.result()
        finally:
            death.cancel()
            cut.cancel()
            if self.dead.is_set():
                work.cancel()

    async def _work(self, name: str, args: Sequence[Any], options: dict[str, Any]) -> Any:
        await self.answering.wait()
        answer = self.method(name)(*[await _fetched(arg) for arg in args], **options)
        return await answer if asyncio.iscoroutine(answer) else answer


async def _fetched(argument: Any) -> Any:
    """What is passed as a reference arrives as its value."""
    if not isinstance(argument, Reference):
        return argument
    try:
        return await argument
    except (ActorDiedError, ActorUnavailableError):
        raise ReplicaError("what was sent to it was lost") from None


class Replica(Process):
    """One of the pool. It loads for some time."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name
        self.loaded = False
        self._info: Any = None

    def method(self, name: str) -> Callable[..., Any]:
        own = {"begin": self._begin, "load": self._load, "described": self._described}
        return own.get(name) or getattr(self.life, name)

    @property
    def life(self) -> Any:
        """The real class."""
        raise NotImplementedError

    async def opened(self) -> Any:
        """What its model says of itself."""
        raise NotImplementedError

    def _begin(self) -> tuple[int, str]:
        return id(self), "here"

    async def _load(self) -> Any:
        await asyncio.sleep(LOAD_S)
        self._info = await self.opened()
        self.loaded = True
        return self._info

    def _described(self) -> Any:
        return (id(self), "here", self._info) if self.loaded else None


class KeeperProcess(Process):
    """The actor of the pool. Ray starts it again when it dies."""

    def __init__(self, spec: Any) -> None:
        super().__init__()
        self.life = PoolActor(spec, True)

    def method(self, name: str) -> Callable[..., Any]:
        return getattr(self.life, name)  # type: ignore[no-any-return]


class NamedPool:
    """Its keeper, and the replicas of its one part. Owner of their processes."""

    def __init__(self, part: str, made: Blueprint, create: Callable[..., Replica], *, forgets_s: float) -> None:
        """`create(name, *arguments)` makes a replica. `forgets_s`: after which a loss is forgotten."""
        self.part, self._new = part, create
        self.replicas: list[Any] = []
        self.no_room = False  # for another replica
        self.keeper_is_back = False
        self._keeper_dies = False
        self._spec = SimpleNamespace(name="simulated", blueprints=lambda: {part: made})
        now = asyncio.get_running_loop().time
        clock = SimpleNamespace(monotonic=now, time_ns=lambda: 10**18 + int(now() * 10**9))
        self.patches = pytest.MonkeyPatch()
        for module, name, stand_in in (
            (keepers, "_FORGETS_S", forgets_s),
            (keepers, "time", clock),
            (service, "time", clock),
            (blueprints, "create_actor", self._create),
            (blueprints, "kill_actor", self._kill),
            (blueprints, "free_resources", dict),
            (blueprints, "named_actors", lambda namespace: [replica.name for replica in self.alive]),
            (blueprints, "actor_named", self._named),
            (service, "was_restarted", lambda: self.keeper_is_back),
            (service, "_end_replicas", lambda pool: None),
        ):
            self.patches.setattr(module, name, stand_in)

    def open(self) -> None:
        self.keeper = KeeperProcess(self._spec)
        self.keeper.open.remote()

    @property
    def alive(self) -> list[Any]:
        return [replica for replica in self.replicas if not replica.dead.is_set()]

    @property
    def num_loaded(self) -> int:
        return sum(replica.loaded for replica in self.alive)

    def _create(self, cls: type, *arguments: Any, **options: Any) -> Replica:
        self.replicas.append(self._new(options["name"], *arguments))
        if self.no_room:
            self.replicas[-1].answering.clear()
        return self.replicas[-1]  # type: ignore[no-any-return]

    def _kill(self, replica: Replica) -> None:
        if not self._keeper_dies:  # what is dead kills nothing
            replica.dead.set()

    def _named(self, name: str, namespace: str) -> Replica | None:
        return next((replica for replica in self.alive if replica.name == name), None)

    async def keeper_dies(self, back_s: float = BACK_S) -> None:
        """And is back after a while."""
        await self._keeper_ends()
        dead, self.keeper_is_back = self.keeper, True
        dead.dead.set()
        await asyncio.sleep(back_s)
        dead.life = PoolActor(self._spec, True)  # type: ignore[arg-type]
        dead.dead = asyncio.Event()  # the same handle reaches it

    async def keeper_stops(self) -> None:
        """It does nothing any more, and answers nobody."""
        await self._keeper_ends()
        self.keeper.answering.clear()

    async def _keeper_ends(self) -> None:
        life, self._keeper_dies = self.keeper.life, True
        tasks = [life._opening, *life._watching, *(t for keeper in life._keepers.values() for t in keeper._tasks)]
        for task in (going := [task for task in tasks if task is not None]):
            task.cancel()
        await asyncio.gather(*going, return_exceptions=True)
        self._keeper_dies = False

    async def end(self) -> None:
        try:
            await asyncio.sleep(1.0)  # what was asked for comes
            await self.keeper.life.close()
            for process in (*self.replicas, self.keeper):
                await process.end()
        finally:
            self.patches.undo()


def shrinking(made: Blueprint, **scaling: float) -> Blueprint:
    """With other times of its scaling, where it has one."""
    return made if made.scaling is None else replace(made, scaling=replace(made.scaling, **scaling))

"""The keeper of a named pool: a detached Ray actor, thin over a `Keeper` for each part of the pool.

It outlives the commands that use it. Should it die, Ray starts it again, and it goes on with the replicas that live.
Drivers say once a second that they live; what one leaves behind that died is freed.
"""

import asyncio
import logging
import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from orchestrator.core.errors import HeadraceError, ReplicaError, UserError, first_error
from orchestrator.pools.spec import PoolSpec
from orchestrator.pools.status import ReplicaRow, replica_row
from orchestrator.ray_calls import (
    actor_named,
    answered,
    create_actor,
    kill_actor,
    named_actors,
    submit,
    was_restarted,
)
from orchestrator.replicas.blueprint import NAMESPACE
from orchestrator.replicas.keeper import Keeper
from orchestrator.replicas.members import Member, Members

log = logging.getLogger(__name__)

BEAT_S = 1.0  # between two beats of a driver
_LEASE_S = 4.0  # a driver that is not heard for so long is gone
_RETURN_S = 10.0  # more, for drivers to find a keeper that was started again
_LOOK_S = 0.25  # between two looks for such drivers
_ANSWER_S = 10.0  # for a replica to answer what is asked of all
_CLOSE_S = 30.0


def create_pool_actor(spec: PoolSpec, *, detached: bool = True) -> Any:
    """A handle to the keeper. Ray restarts it, however often; and ends it with this process, unless it is detached.
    Raises UserError where there is a pool of that name."""
    lifetime = {"lifetime": "detached"} if detached else {}
    kept = {"name": _actor_name(spec.name), "namespace": NAMESPACE, "max_restarts": -1, **lifetime}
    try:
        return create_actor(PoolActor, spec, detached, num_cpus=0, **kept)
    except ValueError:  # Ray's, where the name is taken
        raise taken(spec.name) from None


def taken(pool: str) -> UserError:
    return UserError(f"pool: {pool} was started on that Ray by another headrace up, at the same time")


@asynccontextmanager
async def own_pool(spec: PoolSpec) -> AsyncIterator[None]:
    """A pool for as long as the context lasts, and this process at most. Raises UserError, ReplicaError."""
    keeper, who = create_pool_actor(spec, detached=False), f"pool {spec.name}: its keeper"
    try:
        await answered(submit(keeper.open.remote), who, float("inf"))
        yield
    finally:
        try:
            await answered(submit(keeper.close.remote), who, _CLOSE_S)
        except ReplicaError as error:
            log.debug("pool %s: not closed in order: %s", spec.name, error)
        finally:
            kill_actor(keeper)


def pool_actor(pool: str) -> Any | None:
    """None where there is none on the Ray that this process is connected to."""
    return actor_named(_actor_name(pool), NAMESPACE)


async def close_pool(pool: str) -> None:
    """Ends the keeper and the replicas of a pool, whatever there is of it on the Ray that this process is connected
    to."""
    keeper = pool_actor(pool)
    try:
        if keeper is not None:
            await answered(submit(keeper.close.remote), f"pool {pool}: its keeper", _CLOSE_S)
    except HeadraceError:
        pass  # it is ended all the same
    finally:
        if keeper is not None:
            kill_actor(keeper)
        _end_replicas(pool)


def _end_replicas(pool: str) -> None:
    """Ends what a keeper has not ended: replicas outlive it."""
    for name in named_actors(NAMESPACE):
        if name.startswith(f"{_actor_name(pool)}/") and (actor := actor_named(name, NAMESPACE)) is not None:
            kill_actor(actor)


class PoolActor:
    """Owner of the keepers, and of the leases of drivers."""

    def __init__(self, spec: PoolSpec, detached: bool) -> None:
        """`detached`: the replicas outlive the keeper, and the next one adopts them."""
        self._spec = spec
        self._detached = detached
        self._keepers: dict[str, Keeper] = {}
        self._opening: asyncio.Task[None] | None = None
        self._watching: list[asyncio.Task[None]] = []
        self._heard: dict[str, float] = {}  # by driver, when last
        if was_restarted():  # nobody may call for hours, and replicas may die meanwhile
            self._opening = asyncio.get_running_loop().create_task(self._open())

    async def open(self) -> PoolSpec:
        """What the pool keeps, once all of it serves. Raises UserError, ReplicaError."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        await asyncio.shield(self._opening)
        return self._spec

    async def join(self, driver: str) -> PoolSpec:
        """What the pool keeps, for a driver that begins to use it."""
        spec = await self.open()
        await self.beat(driver)
        return spec

    async def after(self, part: str, version: int, wait_s: float) -> Members:
        """Of a part, its members once they are not those of the version, or what they are after so long."""
        await self.open()
        keeper = self._keepers[part]
        try:
            async with asyncio.timeout(wait_s):
                return await keeper.after(version)
        except TimeoutError:
            return keeper.current

    async def report(self, part: str, member: Member, error: ReplicaError) -> None:
        await self.open()
        self._keepers[part].report(member, error)

    async def excuse(self, part: str, lost: Sequence[tuple[int, int]]) -> None:
        await self.open()
        self._keepers[part].excuse(lost)

    async def waits(self, part: str, driver: str, replicas: float) -> None:
        await self.open()
        if driver in self._heard:  # else it is gone, and nobody would take it back
            self._keepers[part].waits(driver, replicas)

    async def pid(self) -> int:
        return os.getpid()

    async def beat(self, driver: str) -> None:
        """A driver lives."""
        self._heard[driver] = time.monotonic()

    async def leave(self, driver: str) -> None:
        """A driver is done: what it left is freed."""
        await self.open()
        self._heard.pop(driver, None)
        await self._forget(driver)

    async def status(self) -> tuple[list[ReplicaRow], int]:
        """What each replica reports, and how many drivers are attached."""
        await self.open()
        places = [(part, standing) for part, keeper in self._keepers.items() for standing in keeper.standings]
        stats = await asyncio.gather(*(_stats(standing.member) for _, standing in places))
        rows = [replica_row(part, standing, stat) for (part, standing), stat in zip(places, stats, strict=True)]
        return rows, len(self._heard)

    async def close(self) -> None:
        """Ends all replicas."""
        if self._opening is not None:
            self._opening.cancel()
        for task in self._watching:
            task.cancel()
        await asyncio.gather(*(keeper.close() for keeper in self._keepers.values()))

    async def _open(self) -> None:
        blueprints = self._spec.blueprints()
        if self._detached:
            name = _actor_name(self._spec.name)
            blueprints = {part: replace(made, name=f"{name}/{part}") for part, made in blueprints.items()}
        if was_restarted():
            left_behind = {part: await blueprint.left_behind() for part, blueprint in blueprints.items()}
            first_epoch = time.time_ns() // 10**6  # the earlier keeper used those below
            self._keepers = {part: Keeper(made, first_epoch=first_epoch) for part, made in blueprints.items()}
            for part, keeper in self._keepers.items():
                keeper.resume(left_behind[part])
        else:
            _end_replicas(self._spec.name)  # of a pool that did not end in order: nobody knows what they are
            self._keepers = {part: Keeper(made) for part, made in blueprints.items()}
            try:
                async with asyncio.TaskGroup() as tasks:
                    for keeper in self._keepers.values():
                        tasks.create_task(keeper.open())
            except BaseExceptionGroup as group:
                raise first_error(group) from None
        self._watching = [asyncio.create_task(work) for work in (self._find(), self._watch())]

    async def _find(self) -> None:
        """Finds drivers of whom only replicas know: those of an earlier keeper, and those that died with a call under
        way that came after they were forgotten. They say that they live, or are gone."""
        while True:
            for driver in await _clients(self._serving):
                self._heard.setdefault(driver, time.monotonic() + _RETURN_S)
            await asyncio.sleep(_LEASE_S)

    async def _watch(self) -> None:
        """Frees what drivers left behind that died."""
        while True:
            slept = time.monotonic()
            await asyncio.sleep(_LOOK_S)
            now = time.monotonic()
            if now - slept > _LEASE_S:  # this process was stopped, and heard nobody
                self._heard = {driver: max(heard, now) for driver, heard in self._heard.items()}
            for driver in [driver for driver, heard in self._heard.items() if now - heard > _LEASE_S]:
                log.warning("pool %s: a driver died: what it had is freed", self._spec.name)
                await self.leave(driver)

    async def _forget(self, driver: str) -> None:
        for keeper in self._keepers.values():
            keeper.waits(driver, 0.0)
        asked = [_asked(member, lambda actor: actor.forget.remote(driver)) for member in self._serving]
        await asyncio.gather(*asked, return_exceptions=True)  # one that does not answer is on its way out

    @property
    def _serving(self) -> list[Member]:
        return [member for keeper in self._keepers.values() for member in keeper.current.serving]


async def _clients(members: Sequence[Member]) -> set[str]:
    """Drivers that have something in these."""
    asked = [_asked(member, lambda actor: actor.clients.remote()) for member in members]
    found = await asyncio.gather(*asked, return_exceptions=True)
    return {client for clients in found if not isinstance(clients, BaseException) for client in clients}


async def _stats(member: Member | None) -> Mapping[str, int] | None:
    """None: it did not answer, or there is none."""
    if member is None:
        return None
    try:
        stats: Mapping[str, int] = await _asked(member, lambda actor: actor.stats.remote())
    except HeadraceError:
        return None
    return stats


async def _asked(member: Member, call: Any) -> Any:
    return await answered(submit(lambda: call(member.actor)), f"replica {member.index}", _ANSWER_S)


def _actor_name(pool: str) -> str:
    return f"pool/{pool}"

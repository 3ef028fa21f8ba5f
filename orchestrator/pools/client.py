"""A driver's side of a named pool: it finds the keeper, follows the members, and says that it lives."""

import asyncio
import logging
import threading
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from orchestrator.core.errors import HeadraceError, PoolExhausted, ReplicaError, UserError
from orchestrator.pools.service import BEAT_S, pool_actor
from orchestrator.pools.spec import PoolSpec
from orchestrator.ray_calls import NoAnswer, ReplicaBroken, ReplicaLost, answered, submit
from orchestrator.replicas.members import Member, Members

log = logging.getLogger(__name__)

_POLL_S = 20.0  # for a change of the members
_ANSWER_S = 60.0  # for a keeper that is busy with its own start
_RESTART_S = 120.0  # for one that died to be back, once it is needed
_JOIN_S = 30.0  # the same, for a driver that has nothing to do without it
_PAUSE_S = 0.5
_TELL_S = 60.0  # between two warnings that it is away


class PoolClient:
    """Implements `Kept`. Owner of the thread that says that this driver lives."""

    spec: PoolSpec  # once it is attached

    def __init__(self, keeper: Any) -> None:
        """Use `attached`."""
        self.client = uuid.uuid4().hex[:12]
        self._keeper = keeper
        self._left = threading.Event()
        # a thread: searches may keep the event loop busy for longer than a lease
        self._beating = threading.Thread(target=self._beat, name="headrace-beat", daemon=True)

    @classmethod
    @asynccontextmanager
    async def attached(cls, pool: str) -> AsyncIterator["PoolClient"]:
        """To a pool on the Ray that this process is connected to. Raises UserError where there is none, ReplicaError
        where it does not serve. A keeper that is being started again is waited for."""
        client = cls(keeper := _keeper_of(pool))
        client.spec = await client._joined(pool)
        client._beating.start()
        try:
            yield client
        finally:
            client._left.set()
            await asyncio.to_thread(client._beating.join)
            try:
                await answered(submit(lambda: keeper.leave.remote(client.client)), _who(pool), _ANSWER_S)
            except HeadraceError as error:
                log.debug("pool %s: not left in order: %s", pool, error)

    async def membership(self, part: str) -> "RemoteMembership":
        membership = RemoteMembership(self._keeper, self.spec.name, part)
        members = Members(version=-1)
        while not members.serving:
            members = await membership.after(members.version)
            if members.exhausted is not None:
                raise members.exhausted
        return membership

    async def _joined(self, pool: str) -> PoolSpec:
        clock = asyncio.get_running_loop().time
        begun, told = clock(), False
        while True:
            try:
                join = submit(lambda: self._keeper.join.remote(self.client))
                spec: PoolSpec = await answered(join, _who(pool), _RESTART_S)
                return spec
            except ReplicaLost as error:
                if isinstance(error, NoAnswer | ReplicaBroken):
                    raise
                if clock() - begun >= _JOIN_S:
                    raise ReplicaError(f"{_who(pool)} died, and was not back within {_JOIN_S:g} s: {error}") from error
            if not told:
                log.warning("%s is being started again: waiting for it, %g s at most", _who(pool), _JOIN_S)
                told = True
            await asyncio.sleep(_PAUSE_S)
            _keeper_of(pool)  # somebody may have ended it for good

    def _beat(self) -> None:
        while not self._left.wait(BEAT_S):
            submit(lambda: self._keeper.beat.remote(self.client))


class RemoteMembership:
    """Implements `Membership` over a keeper elsewhere."""

    def __init__(self, keeper: Any, pool: str, part: str) -> None:
        self.current = Members(version=-1)
        self._keeper = keeper
        self._who = _who(pool)
        self._part = part
        self._reported: dict[int, tuple[int, int]] = {}  # by place, the last term in which a member was given up

    async def after(self, version: int) -> Members:
        """A keeper that does not answer is waited for as long as there are members to work with, and for some time when
        there are none. Where it does not come back then, or can't keep the pool, the members are exhausted."""
        clock = asyncio.get_running_loop().time
        alone = told = clock()  # since when there is nobody but the keeper to turn to
        while True:
            try:
                members: Members = await answered(
                    submit(lambda: self._keeper.after.remote(self._part, version, _POLL_S)), self._who, _ANSWER_S
                )
            except HeadraceError as error:
                if self._usable:
                    alone = clock()
                if self._usable or (isinstance(error, ReplicaLost) and clock() - alone <= _RESTART_S):
                    if clock() - told >= _TELL_S:
                        log.warning("%s does not answer: its replicas are used as they are: %s", self._who, error)
                        told = clock()
                    await asyncio.sleep(_PAUSE_S)
                    continue
                gone = PoolExhausted(f"{self._who} is gone, and no replica is left that it had started: {error}")
                members = replace(self.current, version=self.current.version - 1, serving=(), exhausted=gone)
            if members.version != version:
                self.current = members
                return members

    @property
    def _usable(self) -> bool:
        """Whether there is a member that was not given up."""
        return any(member.term > self._reported.get(member.index, (-1, -1)) for member in self.current.serving)

    def report(self, member: Member, error: ReplicaError) -> None:
        self._reported[member.index] = member.term
        submit(lambda: self._keeper.report.remote(self._part, member, error))

    def excuse(self, lost: Sequence[tuple[int, int]]) -> None:
        self.current = replace(self.current, exhausted=None)  # until the keeper says so
        submit(lambda: self._keeper.excuse.remote(self._part, lost))

    def waits(self, driver: str, replicas: float) -> None:
        submit(lambda: self._keeper.waits.remote(self._part, driver, replicas))


def _keeper_of(pool: str) -> Any:
    """Raises UserError where there is none."""
    keeper = pool_actor(pool)
    if keeper is None:
        raise UserError(f"pool: there is no pool {pool!r} on this Ray; headrace up starts one")
    return keeper


def _who(pool: str) -> str:
    return f"pool {pool}: its keeper"

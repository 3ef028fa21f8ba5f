"""Who serves in a pool: what its keeper tells the drivers that use it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from orchestrator.core.errors import PoolExhausted, ReplicaError


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Work, counted in replicas: 1.0 is what one runs at a time."""

    running: float = 0.0
    waiting: float = 0.0  # for room
    held: int = 0  # states of searches that go on

    @property
    def idle(self) -> bool:
        """Whether nobody misses the replica."""
        return not (self.running or self.waiting or self.held)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """What a replica reports of itself."""

    busy: bool  # somebody waits for it
    progress: int  # changes whenever it has done some work
    load: Load = field(default=Load(), compare=False)  # new work is no progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A replica that serves."""

    index: int  # its place in the pool
    epoch: int  # how many replicas had this place before it
    since: int = 0  # the version of the members that says it serves, anew where it was reported and found to live
    actor: Any  # a handle, or what looks like one
    info: Any  # what its model says of itself: a PolicyInfo, or a VerifierInfo
    pid: int
    host: str  # name of its machine
    losses: int = 0  # in its place, that still count
    draining: bool = False  # it finishes what it has, and is to be given nothing new

    @property
    def term(self) -> tuple[int, int]:
        """Grows within a place, also from one keeper to the next. A driver that gave a member up works with it again
        in a later term."""
        return self.epoch, self.since


@dataclass(frozen=True, slots=True, kw_only=True)
class Members:
    """All that serve at one time."""

    version: int = 0  # grows with each change
    serving: tuple[Member, ...] = ()
    why_lost: tuple[str, ...] = ()  # by place, the replica before; "" where none was lost
    exhausted: PoolExhausted | None = None  # why none serves, and none will


class Kept(Protocol):
    """A named pool that a driver is attached to."""

    client: str  # the driver's name there

    async def membership(self, part: str) -> "Membership":
        """Of one of its parts, once a replica of it serves. Raises ReplicaError."""
        ...


class Membership(Protocol):
    """A keeper as a driver sees it, wherever it runs."""

    @property
    def current(self) -> Members:
        """As far as is known here."""
        ...

    async def after(self, version: int) -> Members:
        """The members, once they are not those of this version any more."""
        ...

    def report(self, member: Member, error: ReplicaError) -> None:
        """A caller could not use a member. The keeper ends one that is lost or broken. Where it finds that it lives,
        it tells the members anew."""
        ...

    def excuse(self, lost: Sequence[tuple[int, int]]) -> None:
        """The loss of these replicas (place, epoch), which may still come, is not their fault: it does not count."""
        ...

    def waits(self, driver: str, replicas: float) -> None:
        """So much of the driver's work waits for room, counted in replicas. It counts until the driver says otherwise,
        or is gone."""
        ...

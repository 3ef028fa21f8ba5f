"""Where one replica of a pool after the other serves, as its keeper knows it."""

import asyncio
from dataclasses import dataclass, field, replace

from orchestrator.ray_calls import ReplicaBroken
from orchestrator.replicas.members import Load, Member
from orchestrator.replicas.scaling import Stage


@dataclass(slots=True, eq=False)
class Place:
    """Its replica, and the losses that count against it."""

    index: int
    first: asyncio.Future[None]  # once a replica has served, or why none could
    epoch: int = 0
    adopted: Member | None = None  # to begin with
    member: Member | None = None  # that serves
    load: Load = field(default_factory=Load)  # of the member, at the last look
    losses: dict[int, float] = field(default_factory=dict)  # epoch -> when, by the loop's clock; those that count
    excused: set[int] = field(default_factory=set)  # epochs whose loss won't count
    why_lost: str = ""  # the replica before
    empty: bool = False  # its restarts are used up
    broken: ReplicaBroken | None = None  # what makes the member one that is to be ended
    reported: bool = False  # the member by a driver, since the last look
    look: asyncio.Event = field(default_factory=asyncio.Event)  # there is something to do before the next look
    wanted: asyncio.Event = field(default_factory=asyncio.Event)  # set: a replica should serve here
    starting: asyncio.Task[Member] | None = None
    placed: bool = False  # what starts has its room in the cluster
    drains_until: float | None = None  # by the loop's clock, at the latest; None: the member stays

    @property
    def stage(self) -> Stage:
        if self.member is not None:
            return Stage.SERVES if self.drains_until is None else Stage.DRAINS
        if self.empty:
            return Stage.EMPTY
        if self.adopted is not None:
            return Stage.SERVES
        if not self.wanted.is_set():
            return Stage.IDLE
        return Stage.LOADS if self.placed else Stage.WAITS

    def call(self) -> bool:
        """A replica should serve here. Whether the members change: it had been about to leave."""
        self.wanted.set()
        return self._drain(None)

    def dismiss(self, drains_until: float) -> bool:
        """None should: what starts is ended, and what serves finishes what it has. Whether the members change."""
        self.wanted.clear()
        if self.starting is not None:
            self.starting.cancel()
        return self._drain(drains_until)

    def _drain(self, until: float | None) -> bool:
        if self.member is None or self.member.draining == (until is not None):
            return False
        self.drains_until = until
        self.member = replace(self.member, draining=until is not None)
        return True

    def leave(self, why: str) -> None:
        """The replica is gone, or could not start."""
        self.why_lost = why
        self.epoch += 1
        self.member, self.drains_until, self.load, self.placed = None, None, Load(), False

"""Starts, watches and restarts the replicas of one pool, and tells drivers who serves.

Each place in the pool may lose its replica `max_restarts` times; a loss is forgotten after an hour, so that a pool
which runs for days does not wear out. A place that has used its restarts up stays empty until then.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from orchestrator.core.errors import HeadraceError, PoolExhausted, ReplicaError, UserError
from orchestrator.ray_calls import NoAnswer, ReplicaBroken, ReplicaLost
from orchestrator.replicas.blueprint import Blueprint
from orchestrator.replicas.members import Health, Member, Members

log = logging.getLogger(__name__)

_FORGETS_S = 3600.0  # a loss
_LOOKS = 4  # at each replica, in the time after which it counts as stalled
_MOST_BETWEEN_LOOKS_S = 5.0


@dataclass(slots=True, eq=False)
class _Place:
    """Where one replica after the other serves."""

    index: int
    first: asyncio.Future[None]  # once a replica has served, or why none could
    epoch: int = 0
    adopted: Member | None = None  # to begin with
    member: Member | None = None  # that serves
    losses: dict[int, float] = field(default_factory=dict)  # epoch -> when, by the loop's clock; those that count
    excused: set[int] = field(default_factory=set)  # epochs whose loss won't count
    why_lost: str = ""  # the replica before
    empty: bool = False  # its restarts are used up
    broken: ReplicaBroken | None = None  # what makes the member one that is to be ended
    reported: bool = False  # the member by a driver, since the last look
    look: asyncio.Event = field(default_factory=asyncio.Event)  # there is something to do before the next look


class Keeper:
    """Implements `Membership`. Owner of the replicas and of the tasks that start and watch them."""

    def __init__(self, blueprint: Blueprint, *, first_epoch: int = 0) -> None:
        """`first_epoch`: above those of an earlier keeper."""
        loop = asyncio.get_running_loop()
        self._blueprint = blueprint
        self._places = [_Place(index, loop.create_future(), epoch=first_epoch) for index in range(blueprint.replicas)]
        self._version = time.time_ns()  # no earlier keeper had it
        self._change = asyncio.Event()  # set, and replaced, at each
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._why_lost = ""  # whichever was lost last

    async def open(self) -> None:
        """Starts the replicas together, and returns when all of them serve. Raises UserError for what can't be loaded,
        ReplicaError when one takes too long to start, or its restarts are used up before it serves."""
        self._begin()
        await asyncio.gather(*(place.first for place in self._places))

    def resume(self, left_behind: Sequence[Member]) -> None:
        """Goes on where an earlier keeper stopped: with the replicas that live, and starts those that died meanwhile,
        whatever the error."""
        for member in left_behind:
            self._places[member.index].adopted = member
            self._places[member.index].epoch = member.epoch
        for place in self._places:
            place.first.set_result(None)
        self._begin()

    def _begin(self) -> None:
        for place in self._places:
            task = asyncio.create_task(self._keep(place))
            task.add_done_callback(partial(self._keep_ended, place))
            self._tasks.append(task)

    async def close(self) -> None:
        """Ends all replicas."""
        self._closing = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for place in self._places:
            place.first.cancel()

    # what drivers see

    @property
    def current(self) -> Members:
        exhausted = None
        if all(place.empty for place in self._places):
            exhausted = PoolExhausted(
                f"{self._blueprint.kind}: none of {len(self._places)} replicas is left "
                f"after {self._blueprint.max_restarts} restarts each; last: {self._why_lost}"
            )
        serving = tuple(place.member for place in self._places if place.member is not None)
        return Members(
            version=self._version,
            serving=serving,
            why_lost=tuple(place.why_lost for place in self._places),
            exhausted=exhausted,
        )

    async def after(self, version: int) -> Members:
        while self._version == version:
            await self._change.wait()
        return self.current

    def report(self, member: Member, error: ReplicaError) -> None:
        place = self._places[member.index]
        if place.member is None or place.epoch != member.epoch:
            return  # it has left already
        if isinstance(error, ReplicaBroken):
            place.broken = error
        place.reported = True
        place.look.set()

    def excuse(self, lost: Sequence[tuple[int, int]]) -> None:
        for index, epoch in lost:
            place = self._places[index]
            place.excused.add(epoch)
            place.losses.pop(epoch, None)
            if place.empty and len(place.losses) <= self._blueprint.max_restarts:
                place.empty = False
                place.look.set()
        self._changed()

    def _serves(self, place: _Place, member: Member) -> None:
        """Tells drivers so, those that gave it up, too."""
        place.member = replace(member, since=self._version + 1)
        self._changed()

    def _changed(self) -> None:
        self._version += 1
        self._change.set()
        self._change = asyncio.Event()

    # the life of a place

    async def _keep(self, place: _Place) -> None:
        """Raises HeadraceError when the place never served, and won't."""
        while True:
            lost = await self._employ(place)
            if not place.first.done() and (place.empty or isinstance(lost, UserError | NoAnswer)):
                raise lost  # the next start would fail, too
            if place.empty:
                log.error("%s is gone after %d restarts: %s", self._who(place), self._blueprint.max_restarts, lost)
                await self._rest(place)
            else:
                log.warning("%s was lost, restart %d: %s", self._who(place), len(place.losses), lost)

    async def _employ(self, place: _Place) -> HeadraceError:
        """Has a replica serve in the place; why it was lost."""
        adopted, place.adopted = place.adopted, None
        try:
            member = adopted or await self._blueprint.start(place.index, place.epoch)
        except (UserError, ReplicaError) as error:
            self._count(place, error)
            return error
        try:
            member = replace(member, losses=len(place.losses))
            place.broken, place.reported = None, False
            self._serves(place, member)
            if not place.first.done():
                place.first.set_result(None)
            lost = await self._until_lost(place, member)
            self._count(place, lost)
            return lost
        finally:
            place.member = None
            await self._blueprint.end(member, in_order=self._closing)

    def _count(self, place: _Place, lost: HeadraceError) -> None:
        """Counts a loss, and finds out whether it was the last that the place may have."""
        now = asyncio.get_running_loop().time()
        self._why_lost = place.why_lost = str(lost)
        if place.epoch not in place.excused:
            place.losses[place.epoch] = now
        place.losses = {epoch: at for epoch, at in place.losses.items() if now - at < _FORGETS_S}
        place.empty = len(place.losses) > self._blueprint.max_restarts
        place.epoch += 1
        place.member = None
        self._changed()

    async def _until_lost(self, place: _Place, member: Member) -> HeadraceError:
        """Looks at the replica now and then, and at once when a driver reports it."""
        clock, stall_timeout_s = asyncio.get_running_loop().time, self._blueprint.stall_timeout_s
        between_looks_s = min(_MOST_BETWEEN_LOOKS_S, stall_timeout_s / _LOOKS)
        health, since = Health(busy=False, progress=-1), clock()
        while True:
            await _set_within(place.look, between_looks_s)
            place.look.clear()
            if place.broken is not None:
                return place.broken
            reported, place.reported = place.reported, False
            try:
                found = await self._blueprint.health(member)
            except ReplicaError as error:
                return error
            if found != health or not found.busy:
                health, since = found, clock()
            elif clock() - since >= stall_timeout_s:
                return ReplicaLost(f"{self._who(place)}: no progress for {stall_timeout_s:g} s")
            if reported:  # and it lives: the driver takes it back
                self._serves(place, member)

    async def _rest(self, place: _Place) -> None:
        """Leaves the place empty until a loss is excused, or forgotten."""
        clock = asyncio.get_running_loop().time
        place.look.clear()
        while place.empty and clock() - min(place.losses.values()) < _FORGETS_S:
            await _set_within(place.look, min(place.losses.values()) + _FORGETS_S - clock())
        place.empty = False
        place.look.clear()
        self._changed()

    def _keep_ended(self, place: _Place, task: asyncio.Task[None]) -> None:
        """Whoever waits for the place is told."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not place.first.done():
            place.first.set_exception(error)
            return
        log.error("%s: its keeper failed: %r", self._who(place), error)
        self._why_lost, place.empty = f"its keeper failed: {error!r}", True
        self._changed()

    def _who(self, place: _Place) -> str:
        return self._blueprint.who(place.index)


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set, or after so long."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        pass

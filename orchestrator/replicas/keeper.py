"""Starts, watches, restarts and removes the replicas of one pool, and tells drivers who serves.

Each place in the pool may lose its replica `max_restarts` times; a loss is forgotten after an hour, so that a pool
which runs for days does not wear out. A place that has used its restarts up stays empty until then. Where the number of
replicas moves with the work, some places have none. A replica that leaves one first finishes what it has.
"""

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from orchestrator.core.errors import HeadraceError, PoolExhausted, ReplicaError, UserError
from orchestrator.ray_calls import NoAnswer, NoRoom, ReplicaBroken, ReplicaLost
from orchestrator.replicas.blueprint import Blueprint
from orchestrator.replicas.members import Health, Load, Member, Members
from orchestrator.replicas.place import Place
from orchestrator.replicas.scaling import Sample, Scaling, Stage, chosen, kept, needed, wanted

log = logging.getLogger(__name__)

_FORGETS_S = 3600.0  # a loss
_LOOKS = 4  # at each replica, in the time after which it counts as stalled
_MOST_BETWEEN_LOOKS_S = 5.0
_SAMPLES = 5  # of the work, in the time after which a pool may grow


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """How it stands with a place."""

    index: int
    stage: Stage
    member: Member | None  # that serves, or drains
    losses: int  # that count


class Keeper:
    """Implements `Membership`. Owner of the replicas and of the tasks that start and watch them."""

    def __init__(self, blueprint: Blueprint, *, first_epoch: int = 0) -> None:
        """`first_epoch`: above those of an earlier keeper."""
        loop = asyncio.get_running_loop()
        self._blueprint = blueprint
        self._places = [Place(index, loop.create_future(), epoch=first_epoch) for index in range(blueprint.replicas)]
        self._version = time.time_ns()  # no earlier keeper had it
        self._change = asyncio.Event()  # set, and replaced, at each
        self._tasks: list[asyncio.Task[None]] = []
        self._closing = False
        self._why_lost = ""  # whichever was lost last
        self._num_wanted = blueprint.replicas if blueprint.scaling is None else blueprint.scaling.least
        self._waiting: dict[str, float] = {}  # work that drivers hold back, in replicas

    async def open(self) -> None:
        """Starts the replicas together, and returns when as many serve as are wanted first. Raises UserError for
        what can't be loaded, ReplicaError when one takes too long to start, or its restarts are used up before it
        serves."""
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
        self._num_wanted = max(self._num_wanted, len(left_behind))
        self._begin()

    def _begin(self) -> None:
        self._settle()
        for place in self._places:
            if not place.wanted.is_set() and not place.first.done():
                place.first.set_result(None)  # nobody waits for it
            task = asyncio.create_task(self._keep(place))
            task.add_done_callback(partial(self._keep_ended, place))
            self._tasks.append(task)
        if self._blueprint.scaling is not None:
            self._tasks.append(asyncio.create_task(self._scale(self._blueprint.scaling)))

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

    @property
    def standings(self) -> tuple[Standing, ...]:
        """Of the places that have a replica, or should have one."""
        return tuple(
            Standing(index=place.index, stage=place.stage, member=place.member, losses=len(place.losses))
            for place in self._places
            if place.member is not None or place.wanted.is_set()
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
        self._settle()

    def waits(self, driver: str, replicas: float) -> None:
        if replicas:
            self._waiting[driver] = replicas
        else:
            self._waiting.pop(driver, None)

    def _serves(self, place: Place, member: Member) -> None:
        """Tells drivers so, those that gave it up, too."""
        place.member = replace(member, since=self._version + 1)
        self._changed()

    def _changed(self) -> None:
        self._version += 1
        self._change.set()
        self._change = asyncio.Event()

    # how many there are

    async def _scale(self, scaling: Scaling) -> None:
        """Has as many replicas as the work calls for."""
        clock = asyncio.get_running_loop().time
        samples: list[Sample] = []
        while True:
            await asyncio.sleep(scaling.up_after_s / _SAMPLES)
            serving = [place for place in self._places if place.stage is Stage.SERVES]
            loads = [place.load for place in self._places]
            work = Load(
                running=sum(load.running for load in loads),
                waiting=sum(load.waiting for load in loads) + sum(self._waiting.values()),
            )
            samples = kept([*samples, Sample(at=clock(), replicas=needed(work, len(serving)))], clock(), scaling)
            number = wanted(samples, clock(), self._num_wanted, scaling)
            if number != self._num_wanted:
                log.info("%s: %d replicas are wanted, and not %d", self._blueprint.kind, number, self._num_wanted)
                self._num_wanted = number
                self._settle()

    def _settle(self) -> None:
        """Says which places should have a replica."""
        if self._closing:
            return
        best = chosen(
            [place.stage for place in self._places], self._num_wanted, [place.load.running for place in self._places]
        )
        scaling, now = self._blueprint.scaling, asyncio.get_running_loop().time()
        changes = [
            place.call() if scaling is None or place.index in best else place.dismiss(now + scaling.drain_timeout_s)
            for place in self._places
        ]
        if any(changes):
            self._changed()

    # the life of a place

    async def _keep(self, place: Place) -> None:
        """Raises HeadraceError when the place never served, and won't."""
        while True:
            await place.wanted.wait()
            lost = await self._employ(place)
            if lost is None:
                continue
            if not place.first.done() and (place.empty or isinstance(lost, UserError | NoAnswer)):
                raise lost  # the next start would fail, too
            if place.empty:
                log.error("%s is gone after %d restarts: %s", self._who(place), self._blueprint.max_restarts, lost)
                await self._rest(place)
            else:
                log.warning("%s was lost, restart %d: %s", self._who(place), len(place.losses), lost)

    async def _employ(self, place: Place) -> HeadraceError | None:
        """Has a replica serve in the place; why it was lost, or None when it was not wanted any more."""
        adopted, place.adopted = place.adopted, None
        try:
            member = adopted or await self._start(place)
        except (UserError, ReplicaError) as error:
            self._count(place, error)
            return error
        if member is None:
            return None
        lost = None
        try:
            member = replace(member, losses=len(place.losses))
            place.broken, place.reported = None, False
            self._serves(place, member)
            if not place.first.done():
                place.first.set_result(None)
            lost = await self._until_lost(place, member)
            if lost is None:
                self._leaves(place, f"{self._who(place)}: it was removed, with less to do")
            else:
                self._count(place, lost)
            return lost
        finally:
            place.member = None
            await self._blueprint.end(member, in_order=self._closing or lost is None)

    async def _start(self, place: Place) -> Member | None:
        """Raises as `Blueprint.start`. None when no replica is wanted any more."""

        def placed() -> None:
            place.placed = True

        place.starting = asyncio.create_task(self._blueprint.start(place.index, place.epoch, placed))
        try:
            return await place.starting
        except asyncio.CancelledError:
            if place.wanted.is_set() or self._closing:
                raise
            self._leaves(place, f"{self._who(place)}: it was not wanted any more")
            return None
        finally:
            place.starting = None

    def _count(self, place: Place, lost: HeadraceError) -> None:
        """Counts a loss, and finds out whether it was the last that the place may have. Where others serve, to find
        no room is none."""
        now = asyncio.get_running_loop().time()
        self._why_lost = str(lost)
        waits = isinstance(lost, NoRoom) and any(other.member is not None for other in self._places)
        if place.epoch not in place.excused and not waits:
            place.losses[place.epoch] = now
        place.losses = {epoch: at for epoch, at in place.losses.items() if now - at < _FORGETS_S}
        place.empty = len(place.losses) > self._blueprint.max_restarts
        self._leaves(place, str(lost))

    def _leaves(self, place: Place, why: str) -> None:
        """The replica of a place is gone: tells drivers, and finds out which places should have one now."""
        place.leave(why)
        self._changed()
        self._settle()

    async def _until_lost(self, place: Place, member: Member) -> HeadraceError | None:
        """Looks at the replica now and then, and at once when a driver reports it. None: it has left in order."""
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
            place.load = found.load
            if place.drains_until is not None and (found.load.idle or clock() >= place.drains_until):
                return None
            if found != health or not found.busy:
                health, since = found, clock()
            elif clock() - since >= stall_timeout_s:
                return ReplicaLost(f"{self._who(place)}: no progress for {stall_timeout_s:g} s")
            if reported and place.member is not None:  # and it lives: the driver takes it back
                self._serves(place, place.member)

    async def _rest(self, place: Place) -> None:
        """Leaves the place empty until a loss is excused, or forgotten."""
        clock = asyncio.get_running_loop().time
        place.look.clear()
        while place.empty and clock() - min(place.losses.values()) < _FORGETS_S:
            await _set_within(place.look, min(place.losses.values()) + _FORGETS_S - clock())
        place.empty = False
        place.look.clear()
        self._changed()
        self._settle()

    def _keep_ended(self, place: Place, task: asyncio.Task[None]) -> None:
        """Whoever waits for the place is told."""
        if task.cancelled() or (error := task.exception()) is None:
            return
        if not place.first.done():
            place.first.set_exception(error)
            return
        log.error("%s: its keeper failed: %r", self._who(place), error)
        self._why_lost, place.empty = f"its keeper failed: {error!r}", True
        self._changed()
        self._settle()

    def _who(self, place: Place) -> str:
        return self._blueprint.who(place.index)


async def _set_within(event: asyncio.Event, seconds: float) -> None:
    """Returns when the event is set, or after so long."""
    try:
        async with asyncio.timeout(max(0.0, seconds)):
            await event.wait()
    except TimeoutError:
        pass

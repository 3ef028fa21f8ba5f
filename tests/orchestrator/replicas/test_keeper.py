"""Facts about the keeper of a pool, over replicas that are made up: no Ray."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from orchestrator.core.errors import HeadraceError, ReplicaError, UserError
from orchestrator.ray_calls import NoAnswer, ReplicaBroken, ReplicaLost
from orchestrator.replicas import keeper as keepers
from orchestrator.replicas.keeper import Keeper
from orchestrator.replicas.members import Health, Member
from orchestrator.replicas.scaling import Scaling
from tests.waiting import until

DEAD = ReplicaLost("scripted: replica 0: it died")


class Actor:
    """What a keeper asks, as a script says."""

    def __init__(self) -> None:
        self.answer: Health | Exception = Health(busy=False, progress=0)
        self.ended: bool | None = None  # in order, or not


class Script:
    """A `Blueprint` whose replicas live in this test."""

    kind = "scripted"
    scaling: Scaling | None = None

    def __init__(self, *, replicas: int = 1, max_restarts: int = 1, stall_timeout_s: float = 0.2) -> None:
        self.replicas, self.max_restarts, self.stall_timeout_s = replicas, max_restarts, stall_timeout_s
        self.actors: list[Actor] = []
        self.start_errors: list[HeadraceError] = []
        self.starting = asyncio.Event()
        self.starting.set()

    def who(self, index: int) -> str:
        return f"scripted: replica {index}"

    async def start(self, index: int, epoch: int, on_placed: Callable[[], None]) -> Member:
        await self.starting.wait()
        if self.start_errors:
            raise self.start_errors.pop(0)
        self.actors.append(Actor())
        return Member(index=index, epoch=epoch, actor=self.actors[-1], info="info", pid=len(self.actors), host="here")

    async def health(self, member: Member) -> Health:
        await asyncio.sleep(0)
        if isinstance(member.actor.answer, Exception):
            raise member.actor.answer
        return member.actor.answer

    async def end(self, member: Member, *, in_order: bool) -> None:
        member.actor.ended = in_order


Open = Callable[..., AbstractAsyncContextManager[tuple[Script, Keeper]]]


@pytest.fixture
def opened() -> Open:
    @asynccontextmanager
    async def opened(*start_errors: HeadraceError, **options: Any) -> AsyncIterator[tuple[Script, Keeper]]:
        script = Script(**options)
        script.start_errors = list(start_errors)
        keeper = Keeper(script)  # type: ignore[arg-type]
        try:
            async with asyncio.timeout(20):
                await keeper.open()
                yield script, keeper
        finally:
            await keeper.close()
            assert all(actor.ended is not None for actor in script.actors)

    return opened


def epochs(keeper: Keeper) -> list[tuple[int, int]]:
    return [(member.index, member.epoch) for member in keeper.current.serving]


async def test_whoever_waits_is_told_of_each_change(opened: Open) -> None:
    async with opened(replicas=2) as (script, keeper):
        assert epochs(keeper) == [(0, 0), (1, 0)]
        before = keeper.current
        script.starting.clear()
        script.actors[0].answer = DEAD
        left = await keeper.after(before.version)
        assert epochs(keeper) == [(1, 0)] and left.why_lost == (str(DEAD), "")
        script.starting.set()
        back = await keeper.after(left.version)
        assert [(member.index, member.epoch, member.pid) for member in back.serving] == [(0, 1, 3), (1, 0, 2)]
        assert [member.losses for member in back.serving] == [1, 0]
    assert [actor.ended for actor in script.actors] == [False, True, True]


async def test_a_busy_replica_without_progress_is_replaced_and_one_with_progress_or_nothing_to_do_is_not(
    opened: Open,
) -> None:
    async with opened(replicas=3) as (script, keeper):
        stalled, working, _ = script.actors
        stalled.answer = Health(busy=True, progress=7)

        async def work() -> None:
            for progress in range(60):
                working.answer = Health(busy=True, progress=progress)
                await asyncio.sleep(0.01)  # 0.6 s in all: three times as long as a replica may stall

        await work()
        assert [(0, 1), (1, 0), (2, 0)] == epochs(keeper)
        assert keeper.current.why_lost[0] == "scripted: replica 0: no progress for 0.2 s"


async def test_a_report_has_the_keeper_look_at_once_and_a_dead_replica_is_replaced(opened: Open) -> None:
    async with opened(stall_timeout_s=1000.0) as (script, keeper):
        script.actors[0].answer = DEAD
        keeper.report(keeper.current.serving[0], ReplicaLost("a call failed"))
        await until(lambda: epochs(keeper) == [(0, 1)])


async def test_a_replica_that_was_reported_and_lives_stays_and_drivers_are_told(opened: Open) -> None:
    async with opened(stall_timeout_s=1000.0) as (script, keeper):
        [member] = keeper.current.serving
        keeper.report(member, NoAnswer("the driver slept"))
        [again] = (await keeper.after(keeper.current.version)).serving
        assert (again.epoch, again.actor, again.term > member.term) == (0, member.actor, True)
        assert len(script.actors) == 1


async def test_a_broken_replica_is_replaced_although_it_answers(opened: Open) -> None:
    async with opened(stall_timeout_s=1000.0) as (_script, keeper):
        keeper.report(keeper.current.serving[0], ReplicaBroken("it raises on everything"))
        await until(lambda: epochs(keeper) == [(0, 1)])
        assert keeper.current.why_lost == ("it raises on everything",)


async def test_a_report_on_a_replica_that_has_left_ends_none(opened: Open) -> None:
    async with opened(stall_timeout_s=1000.0) as (_script, keeper):
        [first] = keeper.current.serving
        keeper.report(first, ReplicaBroken("broken"))
        await until(lambda: epochs(keeper) == [(0, 1)])
        version = keeper.current.version
        keeper.report(first, ReplicaBroken("broken"))
        await asyncio.sleep(0.05)
        assert (keeper.current.version, epochs(keeper)) == (version, [(0, 1)])


async def test_with_its_restarts_used_up_a_pool_is_exhausted(opened: Open) -> None:
    async with opened(max_restarts=1, stall_timeout_s=1000.0) as (script, keeper):
        for epoch in range(2):
            assert keeper.current.exhausted is None
            keeper.report(keeper.current.serving[0], ReplicaBroken("broken"))
            await until(lambda epoch=epoch: epochs(keeper) == [(0, epoch + 1)] or keeper.current.exhausted is not None)
        assert str(keeper.current.exhausted) == (
            "scripted: none of 1 replicas is left after 1 restarts each; last: broken"
        )
        await asyncio.sleep(0.05)
        assert len(script.actors) == 2


@pytest.mark.parametrize("first", ["the loss", "the excuse"])
async def test_a_loss_that_is_excused_does_not_count_whichever_comes_first(opened: Open, first: str) -> None:
    async with opened(max_restarts=0, stall_timeout_s=1000.0) as (_script, keeper):
        if first == "the excuse":
            keeper.excuse([(0, 0)])
        keeper.report(keeper.current.serving[0], ReplicaBroken("broken"))
        if first == "the loss":
            await until(lambda: keeper.current.exhausted is not None)
            keeper.excuse([(0, 0)])
            assert keeper.current.exhausted is None
        await until(lambda: epochs(keeper) == [(0, 1)])
        assert keeper.current.exhausted is None


async def test_one_excuse_does_not_fill_a_place_whose_other_losses_are_too_many(opened: Open) -> None:
    async with opened(max_restarts=1, stall_timeout_s=1000.0) as (script, keeper):
        for epoch in range(2):
            keeper.report(keeper.current.serving[0], ReplicaBroken("broken"))
            await until(lambda epoch=epoch: epochs(keeper) == [(0, epoch + 1)] or keeper.current.exhausted is not None)
        keeper.excuse([(0, 7)])
        await asyncio.sleep(0.05)
        assert keeper.current.exhausted is not None and len(script.actors) == 2
        keeper.excuse([(0, 0)])
        await until(lambda: epochs(keeper) == [(0, 2)])


async def test_a_keeper_after_the_first_goes_on_with_what_lives_and_waits_for_nothing_else(opened: Open) -> None:
    async with opened(replicas=2) as (script, first):
        [lives, _] = first.current.serving
        script.starting.clear()
        script.start_errors = [NoAnswer("its machine is gone"), UserError("its memory is not free yet")]
        later = Keeper(script, first_epoch=100)  # type: ignore[arg-type]
        later.resume([lives])
        await until(lambda: epochs(later) == [(0, 0)])
        assert later.current.serving[0].term > lives.term, "a driver that gave it up meanwhile works with it again"
        script.max_restarts = 5
        script.starting.set()
        await until(lambda: epochs(later) == [(0, 0), (1, 102)])
        await later.close()


async def test_losses_are_forgotten_after_a_time(opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keepers, "_FORGETS_S", 0.2)
    async with opened(max_restarts=0, stall_timeout_s=1000.0) as (_script, keeper):
        keeper.report(keeper.current.serving[0], ReplicaBroken("broken"))
        await until(lambda: keeper.current.exhausted is not None)
        await until(lambda: epochs(keeper) == [(0, 1)], pause_s=0.01)
        assert keeper.current.exhausted is None


async def test_a_start_that_fails_is_a_loss(opened: Open) -> None:
    async with opened(ReplicaError("no room"), DEAD, max_restarts=2) as (_, keeper):
        assert epochs(keeper) == [(0, 2)]
    with pytest.raises(ReplicaError, match="no room"):
        async with opened(ReplicaError("no room"), ReplicaError("no room"), max_restarts=1):
            pass


@pytest.mark.parametrize("error", [UserError("no such model"), NoAnswer("not within 600 s")])
async def test_what_the_next_start_would_find_again_is_told_at_once(opened: Open, error: HeadraceError) -> None:
    with pytest.raises(type(error), match=str(error)):
        async with opened(error, max_restarts=5):
            pass


async def test_what_served_once_is_started_again_whatever_the_error(opened: Open) -> None:
    async with opened(max_restarts=3, stall_timeout_s=1000.0) as (script, keeper):
        script.start_errors = [UserError("its memory is not free yet"), NoAnswer("not within 600 s")]
        keeper.report(keeper.current.serving[0], ReplicaBroken("broken"))
        await until(lambda: epochs(keeper) == [(0, 3)])


async def test_closing_while_replicas_start_leaves_nothing(opened: Open) -> None:
    script = Script(replicas=2)
    script.starting.clear()
    keeper = Keeper(script)  # type: ignore[arg-type]
    opening = asyncio.create_task(keeper.open())
    await asyncio.sleep(0.01)
    opening.cancel()
    await asyncio.gather(opening, return_exceptions=True)
    await keeper.close()
    assert script.actors == []

"""A named pool of a verifier and its drivers in one event loop with a controlled clock: the real keeper, members, pools
and actors. The verifier is made up, and so are the processes."""

import asyncio
import itertools
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from ray.exceptions import ActorDiedError, ActorUnavailableError

from orchestrator.core.config import VerifierConfig
from orchestrator.core.errors import PoolExhausted
from orchestrator.core.nouns import Score, StateHandle
from orchestrator.core.protocols import ScoreRequest, Verdict
from orchestrator.pools.client import RemoteMembership
from orchestrator.pools.service import BEAT_S
from orchestrator.verifier import actor as actors
from orchestrator.verifier.actor import VerifierActor
from orchestrator.verifier.batch import Job
from orchestrator.verifier.blueprint import verifier_blueprint
from orchestrator.verifier.pool import VerifierPool
from orchestrator.verifier.resolve import ResolvedVerifier
from tests.orchestrator.replicas.processes import NamedPool, Replica, shrinking
from tests.orchestrator.verifier.stepped import SteppedQueue, SteppedThread, in_loop
from verifiers import VerifierEntry
from verifiers.contract import LAYOUT_VERSION, Answer, HostSettings, Missing, Read, Run, StateBlob, VerifierInfo

READ_S = 0.05  # for a token
ENTRY = VerifierEntry(host="tests.orchestrator.verifier.simulated:TapeHost")


def judged(token_ids: Sequence[int]) -> float:
    """Of a whole text, wherever a reading of it began."""
    return sum(place * token for place, token in enumerate(token_ids, start=1)) % 997 / 997


@dataclass
class Faults:
    """What is wrong with the verifier of one replica."""

    raises: int = 0  # on so many of the next calls
    open: asyncio.Event = field(default_factory=asyncio.Event)  # else it hangs
    host: "TapeHost | None" = None  # once it is loaded


class TapeHost:
    """The state after some tokens are these tokens. It holds so many states, and drops the one that was used longest
    ago."""

    info = VerifierInfo(name="tape", model_hash="", tokenizer_fingerprint="", state_bytes=1, flops_per_token=0.0)

    def __init__(self, settings: HostSettings) -> None:
        self.most, self.faults = settings.slots + settings.host_slots, settings.options
        self.faults.host = self
        self.states: OrderedDict[str, tuple[int, ...]] = OrderedDict()

    @classmethod
    def load(cls, settings: HostSettings) -> "TapeHost":
        return cls(settings)

    def read(self, runs: Sequence[Run]) -> list[Answer]:
        in_loop(asyncio.sleep(READ_S * sum(len(run.token_ids) for run in runs)))
        in_loop(self.faults.open.wait())
        if self.faults.raises:
            self.faults.raises -= 1
            raise ValueError("it is bad")
        children = Counter(run.parent for run in runs)
        freed = {run.parent for run in runs if not run.keep_parent}
        answers: list[Answer] = []
        for run in runs:
            answers.append(self._read(run))
            children[run.parent] -= 1
            if run.parent in freed and not children[run.parent]:
                self.states.pop(run.parent or "", None)
        return answers

    def _read(self, run: Run) -> Answer:
        before: tuple[int, ...] = ()
        if run.parent is not None:
            if run.parent not in self.states:
                return Missing()
            before = self.states[run.parent]
            assert len(before) == run.parent_tokens, "a state of another text"
            self.states.move_to_end(run.parent)
        text = (*before, *run.token_ids)
        self._keep(run.key, text)
        scores = tuple(Score(mean=judged(text[: len(before) + boundary])) for boundary in run.boundaries)
        return Read(scores=scores, tokens_read=len(run.token_ids), flops=0.0)

    def _keep(self, key: str, text: tuple[int, ...]) -> None:
        assert self.states.get(key, text) == text, "a key of another text"
        self.states[key] = text
        self.states.move_to_end(key)
        while len(self.states) > self.most:
            self.states.popitem(last=False)

    def release(self, keys: Sequence[str]) -> None:
        for key in keys:
            self.states.pop(key, None)

    def export(self, keys: Sequence[str]) -> list[StateBlob | None]:
        return [self._blob(self.states[key]) if key in self.states else None for key in keys]

    def import_(self, keys: Sequence[str], blobs: Sequence[StateBlob | None]) -> None:
        for key, blob in zip(keys, blobs, strict=True):
            if blob is not None:
                self._keep(key, tuple(blob.data))

    def _blob(self, text: tuple[int, ...]) -> StateBlob:
        data: Any = text
        return StateBlob(layout_version=LAYOUT_VERSION, model_hash="", num_tokens=len(text), data=data)


class Reader(Replica):
    """A replica."""

    def __init__(self, name: str, verifier: ResolvedVerifier, *, removed_early: Callable[[], None]) -> None:
        """`removed_early`: is called when it is removed with work or states."""
        super().__init__(name)
        self.faults = Faults()
        self.faults.open.set()
        self.actor = VerifierActor(replace(verifier, options=self.faults))
        self._removed_early = removed_early
        self._idle = True  # at the keeper's last look: it had no work and no state, whatever was told

    @property
    def life(self) -> VerifierActor:
        return self.actor

    async def opened(self) -> VerifierInfo:
        return await self.actor.load()

    def method(self, name: str) -> Any:
        return self._health if name == "health" else super().method(name)

    def __getattr__(self, name: str) -> Any:
        if name == "stop" and not self._idle:  # the keeper asks for it when it removes this one, with less to do
            self._removed_early()
        return super().__getattr__(name)

    async def _health(self) -> Any:
        health = await self.actor.health()
        self._idle = self.is_idle and (self.faults.host is None or not self.faults.host.states)
        return health

    @property
    def states(self) -> set[str]:
        """That it holds, and that it believes to hold."""
        held = set(self.actor._held._keys)
        return held if self.faults.host is None else held | set(self.faults.host.states)

    @property
    def is_idle(self) -> bool:
        actor = self.actor
        return not (actor._requests or actor._turns or actor._callers)

    async def end(self) -> None:
        await super().end()
        await self.actor._thread.end()  # type: ignore[attr-defined]


@dataclass(eq=False)
class Asked:
    """Readings that a driver asked for together. They end once: with all their verdicts, or an error that says why
    not."""

    readings: Sequence[ScoreRequest]
    task: asyncio.Task[None]
    ends: list[str] = field(default_factory=list)


class Driver:
    """A process that has texts read, piece by piece, and holds the state after each until it releases it."""

    def __init__(self, world: "World", number: int) -> None:
        self.world, self.name = world, f"driver{number}"
        self.asked: list[Asked] = []
        self.texts: list[tuple[tuple[int, ...], StateHandle]] = []
        self.pool: VerifierPool | None = None
        self.life = asyncio.ensure_future(self._live())
        self._leaving = asyncio.Event()
        self._beating = asyncio.ensure_future(self._beat())
        self._num_texts = itertools.count(1)

    async def _live(self) -> None:
        keeper = self.world.keeper
        async with AsyncExitStack() as stack:
            await self._join()
            membership = RemoteMembership(keeper, "simulated", self.world.part)
            members = await membership.after(-1)
            while not members.serving:
                members = await membership.after(members.version)
            opening = VerifierPool.attached(self.world.verifier, membership, self.name)
            self.pool = await stack.enter_async_context(opening)
            await self._leaving.wait()
        self._beating.cancel()
        await asyncio.gather(keeper.leave.remote(self.name), return_exceptions=True)

    async def _join(self) -> None:
        while True:
            try:
                await self.world.keeper.join.remote(self.name)
                return
            except (ActorDiedError, ActorUnavailableError):
                await asyncio.sleep(1.0)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT_S)
            self.world.keeper.beat.remote(self.name)

    def begin(self, number: int, tokens: int) -> None:
        """Has so many new texts read."""
        texts = [tuple(self._token() for _ in range(tokens)) for _ in range(number)]
        self._ask([ScoreRequest(token_ids=text, boundaries=(tokens,)) for text in texts])

    def go_on(self, which: int, number: int, tokens: int, *, keep_parent: bool) -> None:
        """Has so many continuations of a text read. Without `keep_parent` its own state goes."""
        text, handle = self.texts[which % len(self.texts)]
        if not keep_parent:
            self.texts.remove((text, handle))
        longer = [(*text, *(self._token() for _ in range(tokens))) for _ in range(number)]
        self._ask(
            [
                ScoreRequest(token_ids=text, boundaries=(len(text),), handle=handle, keep_parent=keep_parent)
                for text in longer
            ]
        )

    def _token(self) -> int:
        return next(self._num_texts) * 7919 % 1009

    def release(self, which: int) -> None:
        assert self.pool is not None
        if self.texts:
            _, handle = self.texts.pop(which % len(self.texts))
            self.pool.release([handle])

    def release_all(self) -> None:
        while self.texts:
            self.release(0)

    def _ask(self, readings: Sequence[ScoreRequest]) -> None:
        asked = Asked(readings, task=None)  # type: ignore[arg-type]
        asked.task = asyncio.ensure_future(self._read(asked))
        self.asked.append(asked)

    async def _read(self, asked: Asked) -> None:
        assert self.pool is not None
        try:
            verdicts = await self.pool.score(asked.readings)
        except PoolExhausted:
            asked.ends.append("exhausted")
        except asyncio.CancelledError:
            asked.ends.append("cancelled")
        else:
            for reading, verdict in zip(asked.readings, verdicts, strict=True):
                self._check(reading, verdict)
                if verdict.handle is not None:
                    self.texts.append((tuple(reading.token_ids), verdict.handle))
            asked.ends.append("judged" if all(verdict.unjudged is None for verdict in verdicts) else "unjudged")

    def _check(self, reading: ScoreRequest, verdict: Verdict) -> None:
        if verdict.unjudged is not None:
            assert self.world.any_fault, f"unjudged although nothing was wrong: {verdict.unjudged}"
            return
        assert [score.mean for score in verdict.scores] == [judged(reading.token_ids)], "a wrong score"
        assert verdict.handle is not None and verdict.handle.num_tokens == len(reading.token_ids)

    @property
    def is_done(self) -> bool:
        """It is attached, and nothing that it asked for is under way."""
        return self.pool is not None and all(asked.task.done() for asked in self.asked)

    def leave(self) -> None:
        """In order, once nothing is under way."""
        self._leaving.set()

    async def die(self) -> None:
        """At once: it says nothing to anybody."""
        tasks = [self._beating, self.life, *(asked.task for asked in self.asked)]
        if self.pool is not None:
            self.pool._closed = True  # what is dead sends nothing any more
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class World(NamedPool):
    """Owner of all processes."""

    def __init__(self, config: VerifierConfig, *, forgets_s: float, drains_s: float, most_drains_s: float) -> None:
        """`drains_s`: the most that a replica may take to leave in order. As long as `most_drains_s`, it must not be
        removed before its states are released."""
        self.verifier = ResolvedVerifier(config=config, entry=ENTRY, options=None)
        self._waits_for_states = drains_s >= most_drains_s
        self._num_removed_early = 0
        made = shrinking(verifier_blueprint(self.verifier), down_after_s=60.0, drain_timeout_s=drains_s)

        def create(name: str, verifier: ResolvedVerifier) -> Reader:
            return Reader(name, verifier, removed_early=self._removed_early)

        super().__init__("verifier", made, create, forgets_s=forgets_s)
        turn = actors._Turn
        self.patches.setattr(actors, "ThreadPoolExecutor", SteppedThread)
        self.patches.setattr(actors, "_Turn", lambda: turn(request=SteppedQueue()))  # type: ignore[arg-type]
        self.any_fault = False
        self.drivers: list[Driver] = []
        self._numbers = itertools.count()
        self.open()

    def _removed_early(self) -> None:
        """Counted: raised here it would be the keeper's to survive. What is dead removes nothing."""
        self._num_removed_early += self._waits_for_states and not self._keeper_dies

    def join(self) -> None:
        self.drivers.append(Driver(self, next(self._numbers)))

    async def driver_dies(self, driver: Driver) -> None:
        self.drivers.remove(driver)
        await driver.die()

    def want(self, number: int) -> None:
        """As if the work called for so many replicas."""
        if (keeper := self.keeper.life._keepers.get(self.part)) is not None:
            keeper._num_wanted = number
            keeper._settle()

    async def end(self) -> None:
        for driver in self.drivers:
            await driver.die()
        await super().end()

    # what must hold at any time

    def check(self) -> None:
        assert not self._num_removed_early, "a replica was removed with work or states"
        for driver in self.drivers:
            if driver.life.done():
                driver.life.result()
            if driver.pool is not None:
                _check_places(driver.pool)
            for asked in driver.asked:
                assert len(asked.ends) <= 1, asked.ends
                if asked.task.done() and not asked.task.cancelled():
                    asked.task.result()
                    assert asked.ends, "readings ended without a word"


def _check_places(pool: VerifierPool) -> None:
    """Each reading waits in one place at most, and none for a replica that is to leave while another one stays."""
    waiting: list[Job] = [*pool._arrived, *pool._unplaced]
    for replica in pool._replicas:
        waiting += replica.queue._waiting
        assert replica.queue.pending_tokens >= 0 and replica.queue.calls >= 0
        if not replica.up or (replica.draining and any(one.up and not one.draining for one in pool._replicas)):
            assert not replica.queue._waiting, "a reading waits for what is leaving"
    assert len(waiting) == len(set(map(id, waiting))), "a reading waits twice"

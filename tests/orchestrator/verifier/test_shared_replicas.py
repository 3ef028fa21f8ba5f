"""Two drivers on the same replicas, which die in this process: the real keeper, pools and actors, without Ray."""

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from ray.exceptions import ActorDiedError

from orchestrator.core.config import VerifierConfig
from orchestrator.core.nouns import Score
from orchestrator.core.protocols import ScoreRequest, Verdict
from orchestrator.ray_calls import ReplicaLost
from orchestrator.replicas.keeper import Keeper
from orchestrator.replicas.members import Health, Member
from orchestrator.verifier.actor import VerifierActor
from orchestrator.verifier.pool import VerifierPool
from orchestrator.verifier.resolve import ResolvedVerifier
from verifiers import VerifierEntry
from verifiers.contract import Answer, HostSettings, Read, Run, VerifierInfo

POISON = 666  # a token
CONFIG = VerifierConfig(replicas=2, max_restarts=20)


class DeadlyHost:
    """Its process dies when it reads the poison."""

    info = VerifierInfo(name="deadly", model_hash="", tokenizer_fingerprint="", state_bytes=0, flops_per_token=0)

    def __init__(self, die: Callable[[], None]) -> None:
        self.die = die

    @classmethod
    def load(cls, settings: HostSettings) -> "DeadlyHost":
        return cls(settings.options)

    def read(self, runs: Sequence[Run]) -> list[Answer]:
        if any(POISON in run.token_ids for run in runs):
            self.die()
            raise SystemExit
        return [Read(scores=(Score(mean=0.5),), tokens_read=len(run.token_ids), flops=0.0) for run in runs]

    def release(self, keys: Sequence[str]) -> None:
        pass


ENTRY = VerifierEntry(host="tests.orchestrator.verifier.test_shared_replicas:DeadlyHost")


class Handle:
    """Looks like Ray's: `handle.method.remote(...)`, whose answer has a `future()`."""

    def __init__(self) -> None:
        self.dead = False
        self._loop = asyncio.get_running_loop()
        self._calls: set[Future[Any]] = set()
        options = lambda: self._loop.call_soon_threadsafe(self.die)  # noqa: E731
        self.life = VerifierActor(ResolvedVerifier(config=CONFIG, entry=ENTRY, options=options))

    def die(self) -> None:
        self.dead = True
        for call in self._calls:
            if not call.done():
                call.set_exception(ActorDiedError())

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=lambda *args: self._called(name, *args))

    def _called(self, name: str, *args: Any) -> Any:
        answer: Future[Any] = Future()
        self._calls.add(answer)
        if self.dead:
            self.die()
        else:
            work = self._loop.create_task(getattr(self.life, name)(*args))
            work.add_done_callback(lambda work: self._answered(answer, work))
        return SimpleNamespace(future=lambda: answer)

    def _answered(self, answer: Future[Any], work: asyncio.Task[Any]) -> None:
        if answer.done():
            work.exception()
        elif (error := work.exception()) is not None:
            answer.set_exception(error)
        else:
            answer.set_result(work.result())


class Blueprint:
    kind, replicas, max_restarts, stall_timeout_s, scaling = (
        "verifier",
        CONFIG.replicas,
        CONFIG.max_restarts,
        100.0,
        None,
    )

    def who(self, index: int) -> str:
        return f"verifier: replica {index}"

    async def start(self, index: int, epoch: int, on_placed: Callable[[], None]) -> Member:
        actor = Handle()
        return Member(index=index, epoch=epoch, actor=actor, info=await actor.life.load(), pid=1, host="here")

    async def health(self, member: Member) -> Health:
        if member.actor.dead:
            raise ReplicaLost(f"{self.who(member.index)}: it died")
        return await member.actor.life.health()  # type: ignore[no-any-return]

    async def end(self, member: Member, *, in_order: bool) -> None:
        member.actor.die()


async def test_a_reading_that_ends_shared_replicas_condemns_no_reading_of_another_driver() -> None:
    keeper = Keeper(Blueprint())  # type: ignore[arg-type]
    verifier = ResolvedVerifier(config=CONFIG, entry=ENTRY, options=None)

    async def judged(pool: VerifierPool, *tokens: int) -> list[Verdict]:
        return await pool.score([ScoreRequest(token_ids=(token,), boundaries=(1,)) for token in tokens])

    try:
        async with asyncio.timeout(60):
            await keeper.open()
            async with (
                VerifierPool.attached(verifier, keeper, "a") as a,
                VerifierPool.attached(verifier, keeper, "b") as b,
            ):
                for _ in range(5):
                    poisoned, sound = await asyncio.gather(judged(a, POISON), judged(b, *range(8)))
                    assert [verdict.unjudged is None for verdict in poisoned] == [False]
                    assert [verdict.unjudged for verdict in sound] == [None] * 8
    finally:
        await keeper.close()

"""One replica of a verifier as its pool sees it: the actor that it is now, and whether that one can be relied on."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.errors import HeadraceError, ReplicaError
from orchestrator.ray_calls import (
    NoAnswer,
    ReplicaLost,
    answered,
    create_actor,
    free_resources,
    kill_actor,
    meaning,
    submit,
)
from orchestrator.verifier.actor import VerifierActor
from orchestrator.verifier.batch import CallQueue
from orchestrator.verifier.resolve import ResolvedVerifier
from verifiers.contract import VerifierInfo

log = logging.getLogger(__name__)

_LOOKS = 4  # at a busy replica's progress, in the time after which it counts as lost
# glibc returns large blocks to the system and has them faulted in anew, which at tensors of some MB costs a CPU more
# than their arithmetic. With these it keeps what was freed.
_MALLOC = {
    "MALLOC_ARENA_MAX": "1",
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**30),
    "MALLOC_TOP_PAD_": str(2**26),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """A replica as the driver sees it."""

    index: int
    epoch: int
    up: bool
    pending_tokens: int
    pid: int | None


class Replica:
    """Owns an actor, which is another one after each loss (`epoch`), and the queue of what waits for it."""

    def __init__(self, index: int, verifier: ResolvedVerifier, on_lost: Callable[["Replica"], None]) -> None:
        """`on_lost`: is called once at each loss, when the actor is killed."""
        self.index = index
        self.epoch = 0
        self.up = False
        self.restarts = 0
        self.why_lost = ""
        self._verifier, self._config = verifier, verifier.config
        self.queue = CallQueue(
            batch_tokens=self._config.batch_tokens,
            stall_timeout_s=self._config.stall_timeout_s,
            one_run_per_call=verifier.entry.one_run_per_call,
        )
        self._on_lost = on_lost
        self._actor: Any = None
        self._pid: int | None = None
        self._asked = 0  # calls without an answer
        self._progress: int | None = None  # as the actor reported it last; None: it was idle
        self._progress_at = 0.0  # loop time of its last progress, or of the first call after it was idle
        self._gone: asyncio.Future[str] | None = None  # why, once this actor is lost

    @property
    def who(self) -> str:
        return f"verifier: replica {self.index}"

    @property
    def status(self) -> ReplicaStatus:
        return ReplicaStatus(
            index=self.index,
            epoch=self.epoch,
            up=self.up,
            pending_tokens=self.queue.pending_tokens,
            pid=self._pid if self.up else None,
        )

    async def start(self, known: VerifierInfo | None) -> VerifierInfo:
        """Makes an actor and has it load the model. What the verifier says about itself, which must be what is `known`.

        Raises UserError when it can't be loaded, ReplicaLost when the actor dies or hangs meanwhile, and ReplicaError
        when the cluster has no room for it, or it serves another model.
        """
        config = self._config
        actor = create_actor(
            VerifierActor,
            runtime_env={"env_vars": _MALLOC},
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
        )
        self._actor = actor
        try:
            self._pid = await self._placed(actor)
            loading = submit(lambda: actor.load.remote(self._verifier))
            info: VerifierInfo = await answered(loading, f"{self.who}, while it loaded", config.start_timeout_s)
            if known is not None and info != known:
                raise ReplicaError(f"{self.who} serves another model ({info.model_hash}) than {known.model_hash}")
            self.up = True
        finally:
            if not self.up:
                self._kill()
        loop = asyncio.get_running_loop()
        self._progress, self._progress_at, self._gone = None, loop.time(), loop.create_future()
        return info

    async def _placed(self, actor: Any) -> int:
        """The process id, once the cluster has found room for the actor."""
        config = self._config
        try:
            pid: int = await answered(submit(actor.begin.remote), self.who, config.start_timeout_s)
        except NoAnswer:
            free = free_resources()
            raise ReplicaError(
                f"{self.who} did not start in {config.start_timeout_s:g} s; it needs {config.num_cpus} CPU and"
                f" {config.num_gpus:g} GPU, free in the cluster: {free.get('CPU', 0):g} CPU, {free.get('GPU', 0):g} GPU"
            ) from None
        return pid

    async def ask(self, epoch: int, call: Callable[[Any], Any]) -> Any:
        """The answer to `call(actor)`. Raises the verifier's own errors, and ReplicaLost when the actor of that epoch
        is or gets lost, or makes no progress for `stall_timeout_s`."""
        if self.epoch != epoch or not self.up:
            raise ReplicaLost(self.why_lost)
        gone = self._gone
        assert gone is not None, "a replica that is up has started"
        loop = asyncio.get_running_loop()
        if self._asked == 0:
            self._progress_at = loop.time()
        self._asked += 1
        answer: asyncio.Future[Any] | None = None
        try:
            answer = asyncio.wrap_future(submit(lambda: call(self._actor)).future())
            await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and (not answer.done() or answer.exception() is not None):
                raise ReplicaLost(gone.result())  # why it was lost, and not that it then was gone
            self._progress_at = loop.time()
            with meaning(self.who):
                return answer.result()
        except ReplicaLost as error:
            self.lose(epoch, str(error))  # once: it may have been lost before
            raise
        finally:
            if answer is not None:
                answer.cancel()
            self._asked -= 1

    async def export(self, keys: Sequence[str]) -> tuple[int, Any]:
        """How many of the states were found, and a reference to them, which only their receiver need fetch."""
        refs: list[Any] = []

        def call(actor: Any) -> Any:
            refs.extend(actor.export.options(num_returns=2).remote(keys))
            return refs[0]

        found: int = await self.ask(self.epoch, call)
        return found, refs[1]

    def release(self, keys: Sequence[str]) -> None:
        """Has states forgotten; nobody waits for that."""
        if self.up:
            submit(lambda: self._actor.release.remote(keys))

    async def watch(self) -> None:
        """Loses the actor when it is busy and has made no progress for `stall_timeout_s`. Ends with it."""
        epoch, loop = self.epoch, asyncio.get_running_loop()
        every_s = self._config.stall_timeout_s / _LOOKS
        while True:
            await asyncio.sleep(every_s)
            progress = await self._reported_progress(every_s) if self._asked else None
            if self.epoch != epoch:
                return
            if progress != self._progress:
                self._progress, self._progress_at = progress, loop.time()
            if self._asked and loop.time() - self._progress_at >= self._config.stall_timeout_s:
                self.lose(epoch, f"{self.who}: no progress for {self._config.stall_timeout_s:g} s")

    async def _reported_progress(self, within_s: float) -> int | None:
        """What the actor reports; the last report when it does not answer."""
        try:
            progress: int = await answered(submit(self._actor.progress.remote), self.who, within_s)
        except HeadraceError:  # a dead actor is found by the calls that wait for it
            return self._progress
        return progress

    def lose(self, epoch: int, why: str) -> None:
        """Counts the actor of an epoch as lost and kills it, once."""
        if self.epoch != epoch or not self.up:
            return
        self.why_lost = why
        log.warning("lost %s", why)
        self.epoch += 1
        self.up = False
        self._kill()
        assert self._gone is not None, "a replica that is up has started"
        self._gone.set_result(why)
        self._on_lost(self)

    def close(self) -> None:
        """Ends the actor, if there is one, for good."""
        self.up = False
        if self._actor is not None:
            self._kill()

    def _kill(self) -> None:
        """Ends the actor's process, also when it can't answer; its children end with it."""
        kill_actor(self._actor)

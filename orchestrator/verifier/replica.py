"""A place in the verifier pool as a driver sees it: who serves there, and what waits for it."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from orchestrator.core.errors import ReplicaError
from orchestrator.ray_calls import ReplicaLost, ReplicaRemoved, meaning, submit
from orchestrator.replicas.members import Member
from orchestrator.verifier.batch import CallQueue
from orchestrator.verifier.resolve import ResolvedVerifier

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaStatus:
    """A replica as the driver sees it."""

    index: int
    epoch: int
    up: bool
    pending_tokens: int
    pid: int | None


class Replica:
    """A place in the pool: the replica that serves there, which is another one after each loss (`epoch`), and the queue
    of what waits for it."""

    def __init__(
        self, index: int, verifier: ResolvedVerifier, client: str, on_lost: Callable[["Replica", ReplicaError], None]
    ) -> None:
        """`client`: the pool's name there. `on_lost`: is called once at each loss."""
        self.index = index
        self.epoch = 0
        self.up = False
        self.draining = False  # it is given nothing new
        self.member: Member | None = None  # the last one
        self.queue = CallQueue(
            batch_tokens=verifier.config.batch_tokens,
            stall_timeout_s=verifier.config.stall_timeout_s,
            one_run_per_call=verifier.entry.one_run_per_call,
        )
        self._client = client
        self._on_lost = on_lost
        self._gone: asyncio.Future[ReplicaError] | None = None  # why, once this replica is lost

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
            pid=self.member.pid if self.up and self.member is not None else None,
        )

    def join(self, member: Member) -> None:
        """From now on this one serves here, if it did not before. One that was given up and lives frees this client's
        states: nobody knows what it read meanwhile, and it was not told what was released."""
        before, self.member = self.member, member
        if self.up:
            return
        self.epoch, self.up = member.epoch, True
        self._gone = asyncio.get_running_loop().create_future()
        if before is not None and before.epoch == member.epoch:
            submit(lambda: member.actor.forget.remote(self._client))

    async def ask(self, epoch: int, call: Callable[[Any], Any]) -> Any:
        """The answer to `call(actor)`. Raises the verifier's own errors, and ReplicaLost when the actor of that epoch
        is or gets lost."""
        gone, member = self._gone, self.member
        assert gone is not None and member is not None, "nothing is sent to a place where none has served"
        if self.epoch != epoch or not self.up:
            raise _lost(gone)
        answer: asyncio.Future[Any] | None = None
        try:
            answer = asyncio.wrap_future(submit(lambda: call(member.actor)).future())
            await asyncio.wait([answer, gone], return_when=asyncio.FIRST_COMPLETED)
            if gone.done() and (not answer.done() or answer.exception() is not None):
                raise _lost(gone)  # why it was lost, and not that it then was gone
            with meaning(self.who):
                return answer.result()
        except ReplicaLost as error:
            lost = ReplicaRemoved(str(error)) if self.draining else error
            self.lose(epoch, lost)  # once: it may have been lost before
            raise lost from error.__cause__
        finally:
            if answer is not None:
                answer.cancel()

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
        if self.up and self.member is not None:
            actor = self.member.actor
            submit(lambda: actor.release.remote(keys))

    def lose(self, epoch: int, error: ReplicaError) -> None:
        """Counts the replica of an epoch as lost, once."""
        if self.epoch != epoch or not self.up:
            return
        log.warning("lost %s", error)
        self.epoch += 1
        self.up = False
        assert self._gone is not None, "a replica that is up has joined"
        self._gone.set_result(error)
        self._on_lost(self, error)


def _lost(gone: "asyncio.Future[ReplicaError]") -> ReplicaLost:
    """Why, as an error of its own for each caller."""
    why = gone.result() if gone.done() else "it serves no more"
    return ReplicaRemoved(str(why)) if isinstance(why, ReplicaRemoved) else ReplicaLost(str(why))

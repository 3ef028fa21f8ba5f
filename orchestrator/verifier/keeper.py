"""Starts, watches and restarts the replicas of one verifier pool, as often as `max_restarts` allows for each."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from orchestrator.core.errors import HeadraceError, PoolExhausted
from orchestrator.ray_calls import ReplicaLost
from orchestrator.verifier.replica import Replica
from orchestrator.verifier.resolve import ResolvedVerifier
from verifiers.contract import VerifierInfo

log = logging.getLogger(__name__)


class Keeper:
    """Owner of the replicas and of the tasks that start and watch them."""

    def __init__(
        self,
        verifier: ResolvedVerifier,
        *,
        on_lost: Callable[[Replica], None],
        on_restarted: Callable[[], None],
    ) -> None:
        """`on_lost` is called at each loss; `on_restarted` when a lost replica is up again, or won't be."""
        self.info: VerifierInfo | None = None  # once a replica is up
        self._max_restarts = verifier.config.max_restarts
        self._on_lost, self._on_restarted = on_lost, on_restarted
        self.replicas = [Replica(index, verifier, self._lost) for index in range(verifier.config.replicas)]
        self._restarting: set[Replica] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._why_lost = ""

    async def open(self) -> None:
        """Starts all replicas. Raises UserError, ReplicaError."""
        starts = await asyncio.gather(*map(self._open, self.replicas), return_exceptions=True)
        for error in starts:
            if error is not None:
                raise error

    async def close(self) -> None:
        """Ends all replicas."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for replica in self.replicas:
            replica.close()

    @property
    def exhausted(self) -> PoolExhausted | None:
        """The error when no replica is up, and none will be."""
        if any(replica.up or replica in self._restarting or replica.queue.calls for replica in self.replicas):
            return None
        return PoolExhausted(
            f"verifier: none of {len(self.replicas)} replicas is left"
            f" after {self._max_restarts} restarts each; last: {self._why_lost}"
        )

    async def stats(self) -> list[dict[str, int]]:
        """Of the replicas that are up and stay so: `tokens_read` since their start, `replica`."""
        up = [replica for replica in self.replicas if replica.up]
        asked = (replica.ask(replica.epoch, lambda actor: actor.stats.remote()) for replica in up)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        counters = []
        for replica, answer in zip(up, answers, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, ReplicaLost):
                    raise answer
            else:
                counters.append({**answer, "replica": replica.index})
        return counters

    def restart_if_lost(self, replica: Replica) -> None:
        """Begins to restart a lost replica, once it is known whose fault the failure of its calls was."""
        if replica.up or replica.queue.calls or replica in self._restarting or self._closed:
            return
        if replica.restarts < self._max_restarts:
            self._restarting.add(replica)
            self._run(self._restart(replica))

    def give_restarts(self, replicas: Sequence[int]) -> None:
        """Takes restarts of these replicas for not made."""
        for index in replicas:
            self.replicas[index].restarts -= 1
            self.restart_if_lost(self.replicas[index])

    def _lost(self, replica: Replica) -> None:
        self._why_lost = replica.why_lost
        self._on_lost(replica)
        self.restart_if_lost(replica)

    async def _open(self, replica: Replica) -> None:
        """The first start, for which restarts may be used, too. Raises UserError, ReplicaError."""
        while True:
            try:
                return await self._start(replica)
            except ReplicaLost as error:
                if replica.restarts >= self._max_restarts:
                    raise
                log.warning("%s; it is started again", error)
                replica.restarts += 1

    async def _restart(self, replica: Replica) -> None:
        while replica.restarts < self._max_restarts and not replica.up:
            replica.restarts += 1
            try:
                await self._start(replica)
            except HeadraceError as error:
                self._why_lost = str(error)
                log.warning("%s; it did not restart", error)
        self._restarting.discard(replica)
        self._on_restarted()

    async def _start(self, replica: Replica) -> None:
        self.info = await replica.start(self.info)
        self._run(replica.watch())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

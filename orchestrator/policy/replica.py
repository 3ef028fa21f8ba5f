"""One actor of the policy pool, from its start to its end, and the requests that are placed in it."""

import asyncio
import logging
import os
from collections.abc import Callable
from math import ceil, inf
from typing import Any

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import ReplicaError, first_error
from orchestrator.policy.actor import PolicyActor, first_of_threads, resources
from orchestrator.policy.engines.contract import PolicyInfo
from orchestrator.policy.host import Batch, Work
from orchestrator.policy.requests import PolicyRequest
from orchestrator.ray_calls import ReplicaLost, answered, create_actor, kill_actor, submit

log = logging.getLogger(__name__)

_POLL_S = 5.0  # a heartbeat comes this often from an idle replica
_CONNECT_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 10.0
_OVERCOMMIT = 1.25  # sequences in flight per sequence decoded together: the engine finds the next one waiting


class PolicyReplica:
    """Owner of its actor and its requests. It is lost once and for all: what takes its place is another one."""

    info: PolicyInfo  # once it is started

    def __init__(self, index: int, client: str, config: PolicyConfig, steps: StepConfig) -> None:
        """`client` is the pool's name in the replica's host."""
        self.index = index
        self.requests: dict[int, PolicyRequest] = {}
        self.left = asyncio.Event()  # the pool counts on it no more
        self._client = client
        self._config = config
        self._who = f"policy replica {index}"
        self._num_reserved = 0
        self._pending_tokens = 0  # of unfinished steps, at the last poll
        self._submits: list[tuple[int, Work]] = []
        self._aborts: list[int] = []
        self._wake = asyncio.Event()  # there is something to send
        self._loss: asyncio.Future[ReplicaLost] = asyncio.get_running_loop().create_future()
        threads = first_of_threads(os.environ.get("OMP_NUM_THREADS", ""))  # the driver's holds for replicas, too
        self._actor = create_actor(PolicyActor, config, steps, index, threads, **resources(config))

    # its requests

    @property
    def load(self) -> float:
        return len(self.requests) / self.info.max_num_seqs

    def has_room(self, request: PolicyRequest) -> bool:
        """Whether the engine can run the request to its end without preempting another. One always fits alone."""
        fits = self._num_reserved + request.num_reserved <= self.info.kv_capacity_tokens
        few = len(self.requests) < ceil(_OVERCOMMIT * self.info.max_num_seqs)
        return not self.requests or (fits and few)

    def admit(self, request_id: int, request: PolicyRequest) -> None:
        request.queue_s += request.lap()
        request.place = self, request_id
        self.requests[request_id] = request
        self._num_reserved += request.num_reserved
        self._submits.append((request_id, request.work()))
        self._wake.set()

    def drop(self, request_id: int) -> PolicyRequest:
        request = self.requests.pop(request_id)
        request.place = None
        request.engine_s += request.lap()
        self._num_reserved -= request.num_reserved
        return request

    def abort(self, request_id: int) -> None:
        """Has the engine end it; it is in place until its last segment comes."""
        self._aborts.append(request_id)
        self._wake.set()

    def give_back(self) -> list[PolicyRequest]:
        """All requests, which are no longer its own, to go on elsewhere from their last completed step."""
        requests = list(self.requests.values())
        for position, request_id in enumerate(list(self.requests)):  # the poll told their sum: even shares of it
            share, extra = divmod(self._pending_tokens, len(requests))
            self.drop(request_id).lost_tokens += share + (position < extra)
        self._pending_tokens = 0
        self._submits, self._aborts = [], []
        return requests

    # its life

    async def start(self) -> None:
        """Loads the model. Raises UserError for one that can't be loaded, ReplicaError for everything else."""
        self.info = await answered(submit(self._actor.start.remote), self._who, self._config.start_timeout_s)
        await self.connect()

    async def connect(self) -> None:
        await answered(submit(lambda: self._actor.connect.remote(self._client)), self._who, _CONNECT_TIMEOUT_S)

    async def serve(self, deliver: "Callable[[PolicyReplica, Batch], None]") -> None:
        """Sends requests and delivers what comes back. Raises ReplicaError: it is lost, or forgot this client."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._send())
                tasks.create_task(self._receive(deliver))
                tasks.create_task(self._until_lost())
        except BaseExceptionGroup as group:
            raise first_error(group) from None

    async def ask(self, call: Callable[[Any], Any]) -> Any:
        """The answer to a question. Raises ReplicaLost: then there is none, and `serve` ends.

        A question has no deadline of its own: the polls tell whether the replica lives.
        """
        try:
            return await answered(submit(lambda: call(self._actor)), self._who, inf)
        except ReplicaLost as error:
            if not self._loss.done():
                self._loss.set_result(error)
            raise

    async def end(self, *, in_order: bool) -> None:
        """Ends the actor, and its children with it. `in_order`: the engine may shut down first."""
        try:
            if in_order:
                await answered(submit(self._actor.stop.remote), self._who, _STOP_TIMEOUT_S)
        except ReplicaError as error:
            log.debug("%s did not stop in order: %s", self._who, error)
        finally:
            kill_actor(self._actor)

    async def _send(self) -> None:
        """One call at a time; it carries all that came up meanwhile."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            aborts, self._aborts = self._aborts, []
            submits, self._submits = [s for s in self._submits if s[0] in self.requests], []
            await self._timely("update", self._config.stall_timeout_s, submits, aborts)

    async def _receive(self, deliver: "Callable[[PolicyReplica, Batch], None]") -> None:
        clock = asyncio.get_running_loop().time
        stall_timeout_s = self._config.stall_timeout_s
        poll_s = min(_POLL_S, stall_timeout_s / 2)
        progress, progress_at = -1, clock()
        while True:
            batch: Batch = await self._timely("poll", poll_s + stall_timeout_s, poll_s)
            if batch.progress != progress or not self.requests:
                progress, progress_at = batch.progress, clock()
            elif clock() - progress_at > stall_timeout_s:
                raise ReplicaLost(f"{self._who}: busy without progress for {stall_timeout_s:g} s")
            self._pending_tokens = batch.pending_tokens
            deliver(self, batch)

    async def _timely(self, method: str, timeout_s: float, *arguments: Any) -> Any:
        call = submit(lambda: getattr(self._actor, method).remote(self._client, *arguments))
        return await answered(call, self._who, timeout_s)

    async def _until_lost(self) -> None:
        raise await self._loss

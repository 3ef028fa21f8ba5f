"""One replica of the policy as a driver uses it, and the requests that are placed in it."""

import asyncio
from collections.abc import Callable
from math import inf
from typing import Any

from orchestrator.core.config import PolicyConfig
from orchestrator.core.errors import first_error
from orchestrator.core.values import Parcel
from orchestrator.policy.admission import fits
from orchestrator.policy.engines.contract import PolicyInfo
from orchestrator.policy.host import Batch, Work
from orchestrator.policy.requests import PolicyRequest
from orchestrator.ray_calls import ReplicaLost, answered, submit
from orchestrator.replicas.members import Member

_POLL_S = 5.0  # a heartbeat comes this often from an idle replica
_CONNECT_TIMEOUT_S = 60.0


class PolicyReplica:
    """Owner of its requests. It is lost once and for all: what takes its place is another one."""

    def __init__(self, member: Member, client: str, config: PolicyConfig) -> None:
        """`client` is the pool's name in the replica's host."""
        self.member = member
        self.info: PolicyInfo = member.info
        self.requests: dict[int, PolicyRequest] = {}
        self.joined = asyncio.Event()  # it serves, or won't
        self.left = asyncio.Event()  # the pool counts on it no more
        self._actor = member.actor
        self._client = client
        self._config = config
        self.who = f"policy: replica {member.index}"
        self._num_reserved = 0
        self._pending_tokens = 0  # of unfinished steps, at the last poll
        self._submits: list[tuple[int, Work]] = []
        self._aborts: list[int] = []
        self._wake = asyncio.Event()  # there is something to send
        self._loss: asyncio.Future[ReplicaLost] = asyncio.get_running_loop().create_future()

    # its requests

    @property
    def load(self) -> float:
        return len(self.requests) / self.info.max_num_seqs

    def has_room(self, request: PolicyRequest) -> bool:
        """Whether the engine can run the request beside the others of this driver: what it can't run now is better off
        where another replica may still take it."""
        return fits(
            request.num_reserved,
            running=len(self.requests),
            reserved=self._num_reserved,
            capacity_tokens=self.info.kv_capacity_tokens,
            max_num_seqs=self.info.max_num_seqs,
        )

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

    async def connect(self) -> None:
        await answered(submit(lambda: self._actor.connect.remote(self._client)), self.who, _CONNECT_TIMEOUT_S)

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
            return await answered(submit(lambda: call(self._actor)), self.who, inf)
        except ReplicaLost as error:
            if not self._loss.done():
                self._loss.set_result(error)
            raise

    async def _send(self) -> None:
        """One call at a time; it carries all that came up meanwhile."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            aborts, self._aborts = self._aborts, []
            submits, self._submits = Parcel(s for s in self._submits if s[0] in self.requests), []
            await self._timely("update", self._config.stall_timeout_s, submits, aborts)

    async def _receive(self, deliver: "Callable[[PolicyReplica, Batch], None]") -> None:
        poll_s = min(_POLL_S, self._config.stall_timeout_s / 2)
        while True:
            batch: Batch = await self._timely("poll", poll_s + self._config.stall_timeout_s, poll_s)
            self._pending_tokens = batch.pending_tokens
            deliver(self, batch)

    async def _timely(self, method: str, timeout_s: float, *arguments: Any) -> Any:
        call = submit(lambda: getattr(self._actor, method).remote(self._client, *arguments))
        return await answered(call, self.who, timeout_s)

    async def _until_lost(self) -> None:
        raise await self._loss

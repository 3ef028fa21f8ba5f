"""The driver's side of the policy: routes generations to replicas, keeps each in its KV cache, survives their deaths.

What a replica was writing when it died is sent again, elsewhere or to its successor, from the last completed step: the
caller sees every step once. What it was asked is asked again. Results arrive by one long poll per replica, whatever the
number of sequences.
"""

import asyncio
import logging
import os
import random
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from itertools import count
from typing import Any, Self

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import HeadraceError, PoolExhausted, ProblemError, PromptTooLong, ReplicaError, UserError
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import Message, Problem
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.policy.engines.contract import PolicyInfo
from orchestrator.policy.host import Batch, ClientForgotten
from orchestrator.policy.replica import PolicyReplica
from orchestrator.policy.requests import PolicyRequest, PoolStream
from orchestrator.ray_calls import NoAnswer, ReplicaLost
from orchestrator.routing import PrefixAffinity, choose_replica

log = logging.getLogger(__name__)


class PolicyPool:
    """Implements `Policy` over replicas. Owner of the replicas, of the queue of waiting requests and of all tasks."""

    shape: ModelShape
    context_length: int
    fingerprint: str
    thinking: ThinkingMarkers | None

    def __init__(self, config: PolicyConfig, steps: StepConfig) -> None:
        model, tokenizer = (  # an actor has a working directory of its own
            os.path.abspath(path) if path and os.path.isdir(path) else path for path in (config.model, config.tokenizer)
        )
        self._config = replace(config, model=model, tokenizer=tokenizer)
        self._steps = steps
        self._client = uuid.uuid4().hex
        self._serving: dict[int, PolicyReplica] = {}  # by index
        self._some_serving = asyncio.Event()  # or none ever will
        self._num_gone = 0  # replicas whose restarts are used up
        self._ended: HeadraceError | None = None  # why nothing can be generated any more
        self._waiting: deque[PolicyRequest] = deque()  # first come, first served; bounded by what callers ask for
        self._next_id = 0
        self._to_encode: list[tuple[Message, ...]] = []
        self._encoding: asyncio.Task[list[tuple[int, ...] | ProblemError]] | None = None  # that is about to take these
        self._affinity = PrefixAffinity()
        self._rng = random.Random(0)  # only where work runs depends on it

    @classmethod
    @asynccontextmanager
    async def open(cls, config: PolicyConfig, steps: StepConfig) -> AsyncIterator[Self]:
        """Starts the replicas together. Ray must be initialised. Raises UserError for a model that can't be loaded,
        ReplicaError when a replica takes too long to start, or its restarts are used up before it serves."""
        pool = cls(config, steps)
        loop = asyncio.get_running_loop()
        first_starts: list[asyncio.Future[PolicyInfo]] = [loop.create_future() for _ in range(config.replicas)]
        keepers = [asyncio.create_task(pool._keep(index, start)) for index, start in enumerate(first_starts)]
        for keeper, start in zip(keepers, first_starts, strict=True):
            keeper.add_done_callback(partial(pool._keeper_ended, start))
        try:
            info, *_ = await asyncio.gather(*first_starts)
            pool.shape, pool.context_length, pool.fingerprint = info.shape, info.context_length, info.fingerprint
            pool.thinking = info.thinking
            yield pool
        finally:
            pool._end(PoolExhausted("policy pool: closed"))
            for keeper in keepers:
                keeper.cancel()
            await asyncio.gather(*keepers, return_exceptions=True)

    @property
    def model(self) -> str:
        """As in the configuration; absolute where it is a folder."""
        return self._config.model

    @property
    def num_ready(self) -> int:
        """Replicas that serve now."""
        return len(self._serving)

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
        prompts: list[tuple[int, ...] | ProblemError] = await self._ask(
            lambda actor: actor.encode.remote(conversations)
        )
        return prompts

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        encoded: list[tuple[int, ...]] = await self._ask(lambda actor: actor.encode_text.remote(list(texts)))
        return encoded

    def generate(self, requests: Sequence[Generation]) -> PoolStream:
        """See `Policy.generate`. Iterating raises PromptTooLong, ProblemError for what the engine refuses,
        PoolExhausted."""
        writing = PoolStream([self._checked(generation) for generation in requests], self._abort, self._cancel)
        if self._ended is not None:
            writing.arrived.put_nowait(self._ended)
        else:
            self._waiting.extend(writing.requests)
            self._pump()
        return writing

    async def stats(self) -> list[dict[str, int]]:
        """Of the serving replicas: `running` requests, `clients`, `sampled_tokens`, `pid`, `replica`, and the engine's
        own `prompt_tokens`, `cached_tokens`, `generated_tokens`, `preemptions`. One that dies meanwhile is left out."""
        serving = list(self._serving.values())
        asked = (replica.ask(lambda actor: actor.stats.remote()) for replica in serving)
        stats = await asyncio.gather(*asked, return_exceptions=True)
        told = []
        for replica, stat in zip(serving, stats, strict=True):
            if isinstance(stat, ReplicaLost):
                continue
            if isinstance(stat, BaseException):
                raise stat
            told.append({**stat, "replica": replica.index})
        return told

    async def _ask(self, call: Callable[[Any], Any]) -> Any:
        """Asks some serving replica, and another one whenever it is lost before it answers."""
        while True:
            while not self._serving and self._ended is None:
                await self._some_serving.wait()
            if self._ended is not None:
                raise self._ended
            replica = min(self._serving.values(), key=lambda replica: replica.load)
            try:
                return await replica.ask(call)
            except ReplicaLost as error:
                log.info("a question is asked again: %s", error)
                await replica.left.wait()

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

    def _place(self, request: PolicyRequest) -> PolicyReplica | None:
        loads = {index: replica.load for index, replica in self._serving.items() if replica.has_room(request)}
        if not loads:
            return None
        if self._config.replicas == 1:
            return self._serving[0]
        prefix_ids = request.generation.prefix_ids
        index = choose_replica(loads, self._affinity.preferred(prefix_ids), rng=self._rng)
        self._affinity.record(prefix_ids, index)
        return self._serving[index]

    def _abort(self, requests: Sequence[PolicyRequest]) -> None:
        """Ends requests now. Those in an engine end with the segment that it then sends."""
        for request in requests:
            request.aborted |= not request.done
            if request.place is not None:
                replica, request_id = request.place
                replica.abort(request_id)
        self._withdraw(requests)

    def _cancel(self, requests: Sequence[PolicyRequest]) -> None:
        """Gives up what is unfinished of the requests: nobody waits for it any more."""
        for request in requests:
            request.done = True
            if request.place is not None:
                replica, request_id = request.place
                replica.abort(request_id)
                replica.drop(request_id)
        self._pump()

    def _withdraw(self, requests: Iterable[PolicyRequest]) -> None:
        """Ends those that were aborted and are in no engine."""
        for request in requests:
            if request.aborted and not request.done and request.place is None:
                request.queue_s += request.lap()
                request.take(Segment(token_ids=(), text="", finish=Finish.ABORTED))

    def _deliver(self, replica: PolicyReplica, batch: Batch) -> None:
        """Hands what a replica reported to the callers."""
        for request_id, item in batch.items:
            request = replica.requests.get(request_id)
            if request is None:
                continue  # cancelled meanwhile
            if isinstance(item, HeadraceError):
                replica.drop(request_id)
                request.fail(item)
                continue
            if item.finish is not None:
                replica.drop(request_id)
                if self._config.replicas > 1:
                    whole = (*request.generation.prefix_ids, *request.token_ids, *item.token_ids)
                    self._affinity.record(whole, replica.index)
            cached_tokens = min(item.cached_tokens, len(request.generation.prefix_ids))
            request.take(replace(item, cached_tokens=cached_tokens))
        self._pump()

    # replicas

    async def _keep(self, index: int, first_start: asyncio.Future[PolicyInfo]) -> None:
        """Keeps a replica at work in one place until its restarts are used up. `first_start` gets what it serves.

        Raises UserError when the first one finds the user's mistake: starting again would find it again.
        """
        for restarts in count():
            replica = PolicyReplica(index, self._client, self._config, self._steps)
            try:
                lost = await self._employ(replica, first_start)
            except BaseException:  # the pool closes, or nothing can be loaded
                await self._dismiss(replica, in_order=index in self._serving)
                raise
            await self._dismiss(replica, in_order=False)
            too_slow = isinstance(lost, NoAnswer) and not first_start.done()  # the next start would be, too
            if restarts == self._config.max_restarts or too_slow:
                log.error("policy replica %d is gone after %d restarts: %s", index, restarts, lost)
                return self._retire(lost, first_start)
            log.warning("policy replica %d was lost, restart %d: %s", index, restarts + 1, lost)

    async def _employ(self, replica: PolicyReplica, first_start: asyncio.Future[PolicyInfo]) -> HeadraceError:
        """Starts a replica and has it work; why it was lost."""
        try:
            await replica.start()
            if not first_start.done():
                first_start.set_result(replica.info)
            while True:
                self._serving[replica.index] = replica
                self._some_serving.set()
                self._pump()
                try:
                    await replica.serve(self._deliver)
                except ClientForgotten:
                    log.warning("policy replica %d gave this client up: its requests are sent again", replica.index)
                    await replica.connect()
                    self._take_back(replica)
        except ReplicaError as error:
            return error
        except UserError as error:
            if first_start.done():
                return error  # what was loaded before can be loaded
            raise

    async def _dismiss(self, replica: PolicyReplica, *, in_order: bool) -> None:
        """Counts on a replica no more, and ends it."""
        self._serving.pop(replica.index, None)
        if not self._serving and self._ended is None:
            self._some_serving.clear()
        self._affinity.forget(replica.index)
        self._take_back(replica)
        self._pump()
        replica.left.set()
        await replica.end(in_order=in_order)

    def _take_back(self, replica: PolicyReplica) -> None:
        """Puts a replica's requests at the head of the queue, to go on from their last completed step."""
        requests = replica.give_back()
        self._waiting.extendleft(reversed(requests))
        self._withdraw(requests)

    def _retire(self, lost: HeadraceError, first_start: asyncio.Future[PolicyInfo]) -> None:
        if not first_start.done():
            first_start.set_exception(lost)
        self._num_gone += 1
        if self._num_gone == self._config.replicas:
            exhausted = PoolExhausted(f"policy pool: no replica is left, the last one failed: {lost}")
            exhausted.__cause__ = lost
            self._end(exhausted)

    def _keeper_ended(self, first_start: asyncio.Future[PolicyInfo], keeper: asyncio.Task[None]) -> None:
        """A keeper that failed must not leave anybody waiting."""
        if keeper.cancelled() or (error := keeper.exception()) is None:
            return
        if not first_start.done():
            first_start.set_exception(error)
        ended = PoolExhausted(f"policy pool: a keeper failed: {error!r}")
        ended.__cause__ = error
        self._end(ended)

    def _end(self, error: HeadraceError) -> None:
        """Nothing can be generated any more: tells every caller."""
        self._ended = self._ended or error
        requests = [*self._waiting, *(r for replica in self._serving.values() for r in replica.requests.values())]
        self._waiting.clear()
        for writing in {request.writing for request in requests if not request.done}:
            writing.arrived.put_nowait(self._ended)
        self._some_serving.set()

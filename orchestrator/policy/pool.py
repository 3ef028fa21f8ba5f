"""The driver's side of the policy: routes generations to replicas, keeps each in its KV cache, survives their deaths.

What a replica was writing when it died is sent again, elsewhere or to its successor, from the last completed step: the
caller sees every step once. What it was asked is asked again. Results arrive by one long poll per replica, whatever the
number of sequences.
"""

import asyncio
import logging
import random
import uuid
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Self

from orchestrator.core.config import PolicyConfig, StepConfig, most_replicas
from orchestrator.core.errors import HeadraceError, PoolExhausted, ProblemError, PromptTooLong, ReplicaError
from orchestrator.core.flops import ModelShape
from orchestrator.core.nouns import Problem, Prompt
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.core.thinking import ThinkingMarkers
from orchestrator.core.tools import CallingReply, Reply, Tools
from orchestrator.policy.admission import in_replicas
from orchestrator.policy.blueprint import absolute, policy_blueprint
from orchestrator.policy.engines.contract import PolicyInfo
from orchestrator.policy.host import Batch, ClientForgotten
from orchestrator.policy.replica import PolicyReplica
from orchestrator.policy.requests import PolicyRequest, PoolStream
from orchestrator.ray_calls import ReplicaLost
from orchestrator.replicas.keeper import Keeper
from orchestrator.replicas.members import Member, Members, Membership
from orchestrator.replicas.waiting import tell_waiting
from orchestrator.routing import PrefixAffinity, choose_replica

log = logging.getLogger(__name__)


class PolicyPool:
    """Implements `Policy` over replicas that a keeper owns. Owner of the queue of waiting requests and of all tasks."""

    shape: ModelShape
    context_length: int
    fingerprint: str
    thinking: ThinkingMarkers | None
    tool_parser: str | None
    _info: PolicyInfo

    def __init__(self, config: PolicyConfig, membership: Membership, client: str) -> None:
        """Use `open`."""
        self._config = config
        self._most_replicas = most_replicas(config)
        self._membership = membership
        self._client = client
        self._working: dict[tuple[int, int], asyncio.Task[None]] = {}  # with replicas, by place and epoch
        self._last: dict[int, Member] = {}  # that it worked with, by place
        self._serving: dict[int, PolicyReplica] = {}  # by place
        self._draining: set[int] = set()  # places whose replicas are given nothing new
        self._some_serving = asyncio.Event()  # or none ever will
        self._ended: HeadraceError | None = None  # why nothing can be generated any more
        self._waiting: deque[PolicyRequest] = deque()  # first come, first served; bounded by what callers ask for
        self._next_id = 0
        self._to_encode: list[Prompt] = []
        self._encoding: asyncio.Task[list[tuple[int, ...] | ProblemError]] | None = None  # that is about to take these
        self._affinity = PrefixAffinity()
        self._rng = random.Random(0)  # only where work runs depends on it

    @classmethod
    @asynccontextmanager
    async def open(cls, config: PolicyConfig, steps: StepConfig) -> AsyncIterator[Self]:
        """Starts the replicas together; leaving ends them. Ray must be initialised. Raises UserError for a model that
        can't be loaded, ReplicaError when a replica takes too long to start, or its restarts are used up before it
        serves."""
        config = absolute(config)
        keeper = Keeper(policy_blueprint(config, steps))
        try:
            await keeper.open()
            async with cls.attached(config, keeper, uuid.uuid4().hex) as pool:
                yield pool
        finally:
            await keeper.close()

    @classmethod
    @asynccontextmanager
    async def attached(cls, config: PolicyConfig, membership: Membership, client: str) -> AsyncIterator[Self]:
        """Works with replicas that somebody else keeps, one of which serves; leaving leaves them to work."""
        pool = cls(config, membership, client)
        info: PolicyInfo = membership.current.serving[0].info
        pool.shape, pool.context_length, pool.fingerprint = info.shape, info.context_length, info.fingerprint
        pool.thinking, pool.tool_parser = info.thinking, info.tool_parser
        pool._info = info
        tasks = [asyncio.create_task(pool._follow(membership.current))]
        if config.max_replicas is not None:
            tasks.append(asyncio.create_task(tell_waiting(membership, client, pool._num_waiting)))
        try:
            await asyncio.gather(*(replica.joined.wait() for replica in pool._attend(membership.current)))
            yield pool
        finally:
            pool._end(PoolExhausted("policy pool: closed"))
            tasks += pool._working.values()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

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
        self._to_encode += [problem.prompt for problem in problems]
        prompts = []
        for prompt in (await asyncio.shield(task))[first : first + len(problems)]:
            if isinstance(prompt, ProblemError):
                raise prompt
            prompts.append(prompt)
        return prompts

    async def _encode_together(self) -> list[tuple[int, ...] | ProblemError]:
        await asyncio.sleep(0)
        prompts, self._to_encode, self._encoding = self._to_encode, [], None
        encoded: list[tuple[int, ...] | ProblemError] = await self._ask(lambda actor: actor.encode.remote(prompts))
        return encoded

    async def encode_text(self, texts: Sequence[str]) -> list[tuple[int, ...]]:
        encoded: list[tuple[int, ...]] = await self._ask(lambda actor: actor.encode_text.remote(list(texts)))
        return encoded

    async def read_calls(self, tools: Tools, replies: Sequence[Reply]) -> list[CallingReply | None]:
        """See `ReadsCalls.read_calls`."""
        told: list[CallingReply | None] | ProblemError
        told = await self._ask(lambda actor: actor.read_calls.remote(tools, list(replies)))
        if isinstance(told, ProblemError):
            raise told
        return told

    def generate(self, requests: Sequence[Generation]) -> PoolStream:
        """See `Policy.generate`. Iterating raises PromptTooLong, ProblemError for what the engine refuses,
        PoolExhausted."""
        writing = PoolStream([self._checked(generation) for generation in requests], self._abort, self._cancel)
        if self._ended is not None:
            writing.put(self._ended)
        else:
            self._waiting.extend(writing.requests)
            self._pump()
        return writing

    async def stats(self) -> list[dict[str, int]]:
        """Of the serving replicas: `running` requests, `clients`, `sampled_tokens`, `pid`, `replica`, `epoch`, and the
        engine's own `prompt_tokens`, `cached_tokens`, `generated_tokens`, `preemptions`. One that dies meanwhile is
        left out."""
        serving = list(self._serving.values())
        asked = (replica.ask(lambda actor: actor.stats.remote()) for replica in serving)
        stats = await asyncio.gather(*asked, return_exceptions=True)
        told = []
        for replica, stat in zip(serving, stats, strict=True):
            if isinstance(stat, ReplicaLost):
                continue
            if isinstance(stat, BaseException):
                raise stat
            told.append({**stat, "replica": replica.member.index, "epoch": replica.member.epoch})
        return told

    async def _ask(self, call: Callable[[Any], Any]) -> Any:
        """Asks some serving replica, and another one whenever it is lost before it answers."""
        while True:
            while not self._serving and self._ended is None:
                await self._some_serving.wait()
            if self._ended is not None:
                raise self._ended
            replica = min(self._serving.values(), key=lambda one: (one.member.index in self._draining, one.load))
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
        return generation if generation.max_tokens <= room else replace(generation, max_tokens=room)

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
        roomy = [
            replica
            for index, replica in self._serving.items()
            if replica.has_room(request) and index not in self._draining
        ]
        if not roomy or self._most_replicas == 1:
            return roomy[0] if roomy else None
        loads = {replica.member.index: replica.load for replica in roomy}
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
                if self._most_replicas > 1:
                    whole = (*request.generation.prefix_ids, *request.token_ids, *item.token_ids)
                    self._affinity.record(whole, replica.member.index)
            num_prefix = len(request.generation.prefix_ids)
            if item.cached_tokens > num_prefix:  # what it had written, too, when it was sent again
                item = replace(item, cached_tokens=num_prefix)
            request.take(item)
        self._pump()

    # replicas

    async def _follow(self, members: Members) -> None:
        """Works with the replicas that the keeper says are there."""
        while True:
            members = await self._membership.after(members.version)
            self._attend(members)

    def _attend(self, members: Members) -> list[PolicyReplica]:
        """The replicas that are new."""
        attending = []
        epochs = {member.index: member.epoch for member in members.serving}
        self._draining = {member.index for member in members.serving if member.draining}
        for (index, epoch), task in self._working.items():
            if epochs.get(index) != epoch:
                task.cancel()  # the keeper has ended it
        for member in members.serving:
            last = self._last.get(member.index)
            if last is not None and member.term <= last.term:
                continue  # known, or given up in this term
            self._last[member.index] = member
            if (member.index, member.epoch) not in self._working:
                replica = PolicyReplica(member, self._client, self._config)
                attending.append(replica)
                self._working[member.index, member.epoch] = asyncio.create_task(self._work_with(replica))
        if members.exhausted is not None:
            self._end(members.exhausted)
        elif isinstance(self._ended, PoolExhausted) and members.serving:
            self._ended = None  # a loss was forgotten, and a replica serves again
            self._some_serving.clear()
        self._pump()  # one may have been taken back
        return attending

    def _num_waiting(self) -> float:
        """Work that waits here, counted in replicas."""
        waiting = [request.num_reserved for request in self._waiting if not request.done]
        return in_replicas(
            sum(waiting),
            len(waiting),
            capacity_tokens=self._info.kv_capacity_tokens,
            max_num_seqs=self._info.max_num_seqs,
        )

    async def _work_with(self, replica: PolicyReplica) -> None:
        """Has a replica work until it is lost, or the keeper says so."""
        member = replica.member
        try:
            await replica.connect()
            while True:
                self._serving[member.index] = replica
                self._some_serving.set()
                replica.joined.set()
                self._pump()
                try:
                    # a task of its own: a task group swallows a cancellation that comes together with an error
                    await asyncio.create_task(replica.serve(self._deliver))
                except ClientForgotten:
                    if (task := asyncio.current_task()) is not None and task.cancelling():
                        return
                    log.warning("%s gave this client up: its requests are sent again", replica.who)
                    await replica.connect()
                    self._take_back(replica)
        except ReplicaError as error:
            self._membership.report(member, error)
        except Exception as error:  # nobody must be left waiting
            self._end(PoolExhausted(f"policy: {error!r}"))
            raise
        finally:
            del self._working[member.index, member.epoch]
            self._dismiss(replica)

    def _dismiss(self, replica: PolicyReplica) -> None:
        """Counts on a replica no more."""
        if self._serving.get(replica.member.index) is replica:
            del self._serving[replica.member.index]
        if not self._serving and self._ended is None:
            self._some_serving.clear()
        self._affinity.forget(replica.member.index)
        self._take_back(replica)
        self._pump()
        replica.joined.set()
        replica.left.set()

    def _take_back(self, replica: PolicyReplica) -> None:
        """Puts a replica's requests at the head of the queue, to go on from their last completed step."""
        requests = replica.give_back()
        self._waiting.extendleft(reversed(requests))
        self._withdraw(requests)

    def _end(self, error: HeadraceError) -> None:
        """Nothing can be generated any more: tells every caller."""
        self._ended = self._ended or error
        requests = [*self._waiting, *(r for replica in self._serving.values() for r in replica.requests.values())]
        self._waiting.clear()
        for writing in {request.writing for request in requests if not request.done}:
            writing.put(self._ended)
        self._some_serving.set()

"""What runs beside an engine: takes requests of many clients, cuts their tokens into steps, keeps the results in one
mailbox per client. One poll carries what accumulated for many sequences. Plain asyncio: no Ray, no vLLM, no torch.
"""

import asyncio
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from functools import partial

from orchestrator.core.alternatives import ReadToken
from orchestrator.core.config import StepConfig
from orchestrator.core.errors import ProblemError, ReplicaError
from orchestrator.core.protocols import Finish, Generation, Segment
from orchestrator.core.thinking import Phase, ThinkingMarkers
from orchestrator.core.values import Parcel, numerous
from orchestrator.policy.admission import Admission
from orchestrator.policy.cutter import Cutter
from orchestrator.policy.engines.contract import TokenEngine
from orchestrator.policy.likeliest import Reader, read_back
from orchestrator.policy.steps import StepSplitter, TextStream, Vocabulary
from orchestrator.policy.thinking import MarkedTokens
from orchestrator.replicas.members import Health

# between two replies to a client, by the sequences that it has running: dense segments share calls, sparse ones do not
# wait. A call costs some 2 ms of CPU on its way.
_PACE_S, _PACE_S_PER_SEQUENCE, _MOST_PACE_S = 0.005, 0.0002, 0.05


class ClientForgotten(ReplicaError):
    """The client did not poll for so long that its requests were aborted; it may connect again."""


@numerous
@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """A generation to run. `confidences` are those of the tokens sampled before its prefix ended that belong to a group
    of its floor."""

    generation: Generation
    confidences: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What happened since the last poll; `items` is empty when nothing did (a heartbeat)."""

    items: list[tuple[int, Segment | ProblemError]]
    pending_tokens: int  # of this client's unfinished steps: lost should the replica die now


@dataclass(slots=True, eq=False)
class _Job:
    """A request being run."""

    name: str  # the engine's
    work: Work
    aborted: bool = False
    computed: int = 0  # tokens: of the prefix those that were in no cache, and sampled ones
    task: asyncio.Task[None] | None = None  # None: it waits for room


@dataclass(slots=True)
class _Client:
    """Its mailbox and its requests. Owner of their tasks."""

    last_seen: float
    paced: float = 0.0  # when the next reply may go out, on the loop's clock
    jobs: dict[int, _Job] = field(default_factory=dict)
    items: list[tuple[int, Segment | ProblemError]] = field(default_factory=list)
    ready: asyncio.Event = field(default_factory=asyncio.Event)  # there are items, or there will be none any more
    pending_tokens: int = 0  # sampled, in no item yet

    def put(self, request_id: int, item: Segment | ProblemError) -> None:
        if isinstance(item, Segment):
            self.pending_tokens -= len(item.token_ids) + item.discarded_tokens
        self.items.append((request_id, item))
        self.ready.set()


class PolicyHost:
    """Owner of the clients. A client that has not polled for `client_timeout_s` is gone: its requests are aborted."""

    def __init__(
        self,
        engine: TokenEngine,
        steps: StepConfig,
        *,
        admission: Admission,
        spare_seqs: int = 0,
        thinking: ThinkingMarkers | None = None,
        clock: Callable[[], float] = time.monotonic,
        client_timeout_s: float = 30.0,
    ) -> None:
        """It speculates while fewer than `spare_seqs` sequences run."""
        self._engine = engine
        self._steps = steps
        self._admission = admission
        self._spare_seqs = spare_seqs
        self._clock = clock
        self._client_timeout_s = client_timeout_s
        self._vocabulary = Vocabulary(engine.tokenizer)
        self._marked = None if thinking is None else MarkedTokens(thinking, engine.tokenizer)
        self._clients: dict[str, _Client] = {}
        self._sampled_tokens = 0
        self._aborting: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None  # what stopped the engine

    def connect(self, client: str) -> None:
        """Must come before the client's first call, and after it was forgotten. Ends what it asked for before; what
        still ends has its id, so the client must not use an id again."""
        self._forget([client])
        self._clients[client] = _Client(last_seen=self._clock())

    def update(self, client: str, submits: Sequence[tuple[int, Work]], aborts: Sequence[int]) -> None:
        """Takes requests, under ids that the client chose, then aborts, perhaps some of these. Every request yields
        a last segment. They start as soon as there is room."""
        state = self._client(client)
        for request_id, work in submits:
            state.jobs[request_id] = _Job(name=f"{client}/{request_id}", work=work)
            asked = work.generation
            self._admission.add(client, request_id, len(asked.prefix_ids) + asked.max_tokens)
        for request_id in aborts:
            if request_id in state.jobs:
                self._abort(client, request_id)
        self._admit()

    async def poll(self, client: str, wait_s: float) -> Batch:
        """What happened since the last poll, at once or within `wait_s`. Raises ReplicaError when the engine died, and
        ClientForgotten for a poll from before the client connected anew: nobody waits for its answer."""
        self._check_alive()
        state = self._client(client)
        clock = asyncio.get_running_loop().time
        await asyncio.sleep(max(0.0, state.paced - clock()))
        try:
            async with asyncio.timeout(wait_s):
                await state.ready.wait()
        except TimeoutError:
            pass  # a heartbeat
        self._check_alive()
        if self._client(client) is not state:
            raise ClientForgotten(f"policy replica: client {client} has connected anew since it polled")
        state.paced = clock() + min(_MOST_PACE_S, _PACE_S + _PACE_S_PER_SEQUENCE * len(state.jobs))
        items, state.items = state.items, []
        state.ready.clear()
        return Batch(items=Parcel(items), pending_tokens=state.pending_tokens)

    @property
    def clients(self) -> list[str]:
        """Those that are connected."""
        return list(self._clients)

    def forget(self, client: str) -> None:
        """Frees what a client has here: it is gone."""
        self._forget([client])

    def forget_stalled(self) -> list[str]:
        """Aborts what clients that went away left behind; their names."""
        now = self._clock()
        stalled = [name for name, state in self._clients.items() if now - state.last_seen > self._client_timeout_s]
        self._forget(stalled)
        return stalled

    def health(self) -> Health:
        """Of the engine: see `TokenEngine.progress`. Raises ReplicaError when it died."""
        self._check_alive()
        return Health(busy=self._engine.num_running > 0, progress=self._engine.progress, load=self._admission.load)

    async def watch(self) -> None:
        """Forgets stalled clients until cancelled."""
        while True:
            await asyncio.sleep(self._client_timeout_s / 4)
            self.forget_stalled()

    def stats(self) -> dict[str, int]:
        return {
            "running": self._engine.num_running,
            "clients": len(self._clients),
            "waiting": self._admission.num_waiting,
            "reserved_tokens": self._admission.num_reserved,
            "sampled_tokens": self._sampled_tokens,
            **self._engine.counters(),
        }

    async def stop(self) -> None:
        """Aborts every request and waits until all are gone."""
        tasks = self._forget(list(self._clients))
        await asyncio.gather(*tasks, return_exceptions=True)

    def _check_alive(self) -> None:
        if self._failure is not None:
            raise ReplicaError(f"policy engine died: {self._failure!r}")

    def _forget(self, clients: Iterable[str]) -> list[asyncio.Task[None]]:
        """Cancels what runs for clients, which are not known any more."""
        tasks = []
        for name in clients:
            if (state := self._clients.pop(name, None)) is None:
                continue
            for request_id, job in list(state.jobs.items()):
                if job.task is None:
                    self._admission.end(name, request_id)
                else:
                    job.task.cancel()
                    tasks.append(job.task)
            self._admission.leave(name)
            state.ready.set()
        return tasks

    def _client(self, client: str) -> _Client:
        if client not in self._clients:
            raise ClientForgotten(f"policy replica: client {client} is not connected (it did not poll for too long)")
        state = self._clients[client]
        state.last_seen = self._clock()
        return state

    def _admit(self) -> None:
        """Starts what there is room for."""
        while (taken := self._admission.take()) is not None:
            client, request_id = taken
            state = self._clients[client]
            job = state.jobs[request_id]
            job.task = asyncio.create_task(self._run(state, request_id, job))
            job.task.add_done_callback(partial(self._ended, client, state, request_id))

    def _abort(self, client: str, request_id: int) -> None:
        state = self._clients[client]
        job = state.jobs[request_id]
        if job.task is None:
            self._admission.end(client, request_id)
            del state.jobs[request_id]
            state.put(request_id, Segment(token_ids=(), text="", finish=Finish.ABORTED))
            return
        job.aborted = True
        task = asyncio.create_task(self._engine.abort(job.name))
        self._aborting.add(task)
        task.add_done_callback(self._aborting.discard)

    def _ended(self, client: str, state: _Client, request_id: int, task: asyncio.Task[None]) -> None:
        job = state.jobs.pop(request_id)
        self._admission.end(client, request_id, job.computed)
        self._admit()
        error: BaseException | None
        if task.cancelled():
            left = self._clients.get(client) is not state
            error = None if left else asyncio.CancelledError("by none of ours")
        else:
            error = task.exception()
        if isinstance(error, ProblemError):
            state.put(request_id, error)
        elif error is not None:  # a client must not wait for what will never come
            self._failure = error
            for other in self._clients.values():
                other.ready.set()

    def _splitter(self, work: Work, text: TextStream) -> StepSplitter:
        phase, seen = Phase.ANSWER, ""
        if self._marked is not None:
            prefix_ids, num_prompt = work.generation.prefix_ids, work.generation.num_prompt
            phase, seen = self._marked.begin(prefix_ids, len(prefix_ids) if num_prompt is None else num_prompt)
        return StepSplitter(
            self._steps,
            text,
            stop=work.generation.stop,
            seen=work.generation.seen,
            marked=self._marked,
            phase=phase,
            phase_text=seen,
        )

    def _step_ends(self, phase: Phase) -> Sequence[str]:
        """Texts that end a step for certain if the sequence is in that phase: there the engine itself may stop."""
        own, thinking = self._steps.delimiters, self._steps.thinking_delimiters
        if self._marked is None or phase is Phase.ANSWER:
            return own
        if phase is Phase.THINKING:
            return [*(own if thinking is None else thinking), self._marked.markers.end]
        return own if thinking is None else ()

    def _has_spare(self) -> bool:
        return self._engine.num_running < self._spare_seqs

    async def _run(self, state: _Client, request_id: int, job: _Job) -> None:
        """Streams one request into its client's mailbox."""
        generation = job.work.generation
        text = TextStream(self._engine.tokenizer, generation.prefix_ids)
        splitter = self._splitter(job.work, text)
        speculates = generation.speculate > 0 and self._has_spare()
        stops = list(generation.stop)
        if generation.until_step and not speculates and self._steps.every_tokens is None:
            stops += self._step_ends(splitter.phase)
        stop_token_ids = self._vocabulary.tokens_with(stops) if stops else []
        reader = Reader(self._vocabulary, generation.words) if generation.words else None
        read: tuple[ReadToken, ...] = ()
        cutter = Cutter(
            generation,
            job.work.confidences,
            splitter,
            generation.speculate if speculates else 0,
            self._has_spare,
            reader,
        )

        try:
            async with aclosing(self._engine.stream(job.name, generation, stop_token_ids)) as deltas:
                async for delta in deltas:
                    if not job.computed:
                        job.computed = max(0, len(generation.prefix_ids) - delta.cached_tokens)
                    job.computed += len(delta.token_ids)
                    self._sampled_tokens += len(delta.token_ids)
                    state.pending_tokens += len(delta.token_ids)
                    if delta.read is not None:
                        read = read_back(
                            self._engine.tokenizer,
                            self._vocabulary,
                            generation.prefix_ids,
                            delta.read,
                            generation.reads_from,
                        )
                    for segment in cutter.push(delta):
                        state.put(request_id, segment)
                    if delta.finish is None and (cutter.last is not None or job.aborted):
                        await self._engine.abort(job.name)
            assert cutter.last is not None, "the engine ended a stream without saying so"
            state.put(request_id, replace(cutter.last, read=read) if read else cutter.last)
        finally:
            state.pending_tokens -= splitter.num_pending

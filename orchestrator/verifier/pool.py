"""The driver's side of the verifier pool: which replica reads what, and what happens when one dies.

Whatever is submitted in one tick of the loop goes to a replica as one call. States stay where they are unless their
replica is overloaded. A state that was dropped, or went down with its replica, is rebuilt from the tokens: that costs
time and `reingested_tokens`, and never changes a score.
"""

import asyncio
import logging
import uuid
from collections import OrderedDict, defaultdict
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from orchestrator.config import VerifierConfig
from orchestrator.core.errors import PoolExhausted, ReplicaError, UserError
from orchestrator.core.nouns import Carry
from orchestrator.core.protocols import Reading, Verdict
from orchestrator.routing import choose_replica
from orchestrator.verifier.actor import VerifierActor
from orchestrator.verifier.check import hosted_entry, verifier_options
from verifiers.contract import Missing, Read, Run, Unreadable, VerifierInfo

log = logging.getLogger(__name__)

_ACTOR = ray.remote(VerifierActor)
_CALLS_IN_FLIGHT = 2  # per replica: one is read and one waits; what comes meanwhile shares the next call
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


@dataclass(slots=True, eq=False)
class _Replica:
    index: int
    actor: Any = None
    epoch: int = 0
    up: bool = False
    pid: int | None = None
    restarts: int = 0
    starting: asyncio.Task[None] | None = None  # a restart under way
    pending_tokens: int = 0  # sent and not answered
    in_flight: int = 0  # calls
    progress_at: float = 0.0  # loop time of its last answer, or of the first call after it was idle


@dataclass(slots=True, eq=False)
class _Job:
    """A reading on its way to its verdict."""

    reading: Reading
    key: str  # of the state after its last token
    verdict: asyncio.Future[Verdict]
    carry: Carry | None  # what it can start from
    routed_tokens: int = 0
    tokens_read: int = 0
    reingested_tokens: int = 0
    flops: float = 0.0


class _Lost(Exception):
    """The replica that was asked is gone."""


@dataclass(slots=True, eq=False)
class _Batch:
    """Jobs for one replica. `copied`: names there of states that another replica holds."""

    jobs: list[_Job]
    copied: dict[str, str] = field(default_factory=dict)

    def as_told(self) -> list[tuple[_Job, Run]]:
        """Each job from its carry."""
        return [(job, self._run(job, job.carry)) for job in self.jobs]

    def rebuilding(self) -> list[tuple[_Job, Run]]:
        """The carries' states are not there: each is read again, once for all who start from it."""
        runs: list[tuple[_Job, Run]] = []
        sharing: defaultdict[str, list[_Job]] = defaultdict(list)
        for job in self.jobs:
            if job.carry is not None:
                sharing[job.carry.key].append(job)
        self.copied = {}
        for key, jobs in sharing.items():
            carry = jobs[0].carry
            assert carry is not None
            alone = len(jobs) == 1 and not jobs[0].reading.keep_parent
            if alone or jobs[0].reading.solution is not None:  # a text can't be cut where the carry's tokens end
                runs.extend((job, self._run(job, None)) for job in jobs)
                continue
            runs.append((jobs[0], Run(key=key, token_ids=jobs[0].reading.token_ids[: carry.num_tokens])))
            runs.extend((job, self._run(job, carry)) for job in jobs)
        return runs

    def from_scratch(self) -> list[tuple[_Job, Run]]:
        """No room even for those: each job reads all its tokens."""
        return [(job, self._run(job, None)) for job in self.jobs]

    def _run(self, job: _Job, carry: Carry | None) -> Run:
        reading = job.reading
        if carry is None:
            return Run(
                key=job.key, token_ids=reading.token_ids, boundaries=reading.boundaries, solution=reading.solution
            )
        copy = self.copied.get(carry.key)
        return Run(
            key=job.key,
            token_ids=reading.token_ids[carry.num_tokens :],
            boundaries=tuple(boundary - carry.num_tokens for boundary in reading.boundaries),
            parent=copy or carry.key,
            parent_tokens=carry.num_tokens,
            keep_parent=reading.keep_parent and copy is None,
            solution=reading.solution,
        )


class VerifierPool:
    """Implements `OpenVerifier`. Owns its actors, and knows where moved states are."""

    def __init__(self, config: VerifierConfig) -> None:
        """Use `open`."""
        self._entry, self._options = hosted_entry(config), verifier_options(config)
        model = Path(config.model)
        self._config = replace(config, model=str(model.absolute()) if model.exists() else config.model)
        self._replicas = [_Replica(index) for index in range(config.replicas)]
        self._info: VerifierInfo | None = None
        self._key_prefix = uuid.uuid4().hex[:8]
        self._keys = count()
        self._moved: OrderedDict[str, tuple[int, int]] = OrderedDict()  # key -> (replica, epoch), where not the carry's
        self._max_moved = config.replicas * (config.slots + config.host_slots)  # no more states can exist
        self._queued: list[_Job] = []
        self._released: defaultdict[int, list[str]] = defaultdict(list)
        self._flush_scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self._why_lost = ""

    @classmethod
    @asynccontextmanager
    async def open(cls, config: VerifierConfig) -> AsyncIterator["VerifierPool"]:
        """Starts the replicas on a Ray that is up; leaving kills them. Raises UserError, ReplicaError."""
        pool = cls(config)
        try:
            starts = await asyncio.gather(*map(pool._start, pool._replicas), return_exceptions=True)
            for error in starts:
                if error is not None:
                    raise error
            yield pool
        finally:
            await pool._close()

    def hello(self) -> VerifierInfo:
        """What the verifier says about itself."""
        assert self._info is not None, "the pool is not open"
        return self._info

    @property
    def scores_steps(self) -> bool:
        return self._entry.scores_steps

    @property
    def reads_text(self) -> bool:
        return self._entry.reads_text

    @property
    def reads_tokens(self) -> bool:
        return not self.reads_text

    @property
    def flops_per_token(self) -> float:
        return self.hello().flops_per_token

    @property
    def state_bytes(self) -> int:
        return self.hello().state_bytes

    @property
    def num_ready(self) -> int:
        return sum(replica.up for replica in self._replicas)

    def replicas(self) -> tuple[ReplicaStatus, ...]:
        return tuple(
            ReplicaStatus(index=r.index, epoch=r.epoch, up=r.up, pending_tokens=r.pending_tokens, pid=r.pid)
            for r in self._replicas
        )

    async def stats(self) -> list[dict[str, int]]:
        """Of the replicas that are up: `tokens_read` since their start, `replica`. Raises ReplicaError."""
        up = [(replica, replica.epoch, replica.actor.stats.remote()) for replica in self._replicas if replica.up]
        try:
            return [{**await self._ask(replica, epoch, ref), "replica": replica.index} for replica, epoch, ref in up]
        except _Lost:
            raise ReplicaError("verifier: a replica was lost while it was asked for its counters") from None

    async def score(self, readings: Sequence[Reading]) -> list[Verdict]:
        """Verdicts in order. Raises PoolExhausted, ReplicaError."""
        if self._closed:
            raise ReplicaError("verifier: the pool is closed")
        jobs = [self._job(reading) for reading in readings]
        self._queued.extend(jobs)
        self._schedule_flush()
        try:
            outcomes = await asyncio.gather(*(job.verdict for job in jobs), return_exceptions=True)
        except asyncio.CancelledError:
            self._release_verdicts([job.verdict.result() for job in jobs if _succeeded(job.verdict)])
            raise
        verdicts = [outcome for outcome in outcomes if isinstance(outcome, Verdict)]
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                self._release_verdicts(verdicts)
                raise outcome
        return verdicts

    def release(self, carries: Sequence[Carry]) -> None:
        """Frees states. A hint: releasing twice, or using a released carry, costs time and changes no score."""
        if self._closed:
            return
        for carry in carries:
            home = self._home(carry)
            self._moved.pop(carry.key, None)
            if home is not None:
                self._released[home.index].append(carry.key)
        if self._released:
            self._schedule_flush()

    async def migrate(self, carry: Carry, replica: int) -> Carry:
        """Moves a state; earlier handles stay good. The carry itself when there is nothing to move."""
        if not 0 <= replica < len(self._replicas):
            raise ValueError(f"verifier: replica must be in 0..{len(self._replicas) - 1}, got {replica}")
        source, target = self._home(carry), self._replicas[replica]
        if not target.up:
            raise ReplicaError(f"verifier: replica {replica} is down")
        if source is None or source is target:
            return carry
        epoch = target.epoch
        try:
            moved = await self._copy(source, target, {carry.key: carry.key})
        except _Lost:
            return carry
        if not moved:
            return carry
        self._remember(carry.key, target, epoch)
        self._released[source.index].append(carry.key)
        self._schedule_flush()
        return replace(carry, replica=replica, epoch=epoch)

    # from readings to calls

    def _job(self, reading: Reading) -> _Job:
        num_tokens, boundaries = len(reading.token_ids), reading.boundaries
        if any(b <= a for a, b in zip((0, *boundaries), (*boundaries, num_tokens + 1), strict=False)):
            raise ValueError(f"verifier: boundaries must increase within 1..{num_tokens}, got {boundaries}")
        carry = reading.carry
        if carry is not None and carry.num_tokens > num_tokens:
            raise ValueError(f"verifier: carry covers {carry.num_tokens} tokens, the reading has {num_tokens}")
        job = _Job(
            reading=reading,
            key=f"{self._key_prefix}-{next(self._keys)}",
            verdict=asyncio.get_running_loop().create_future(),
            carry=carry,
        )
        if carry is not None and boundaries and boundaries[0] <= carry.num_tokens:
            job.carry = None  # a state can't tell the scores before it
        return job

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_scheduled = False
        if self._closed:
            return
        up = [replica for replica in self._replicas if replica.up]
        if up and all(replica.in_flight >= _CALLS_IN_FLIGHT for replica in up):
            return  # until a call ends
        jobs, self._queued = self._queued, []
        self._dispatch(jobs)
        asyncio.get_running_loop().call_soon(self._send_releases)  # after the calls that may need these states

    def _send_releases(self) -> None:
        for index, keys in self._released.items():
            if self._replicas[index].up:
                self._replicas[index].actor.release.remote(keys)
        self._released.clear()

    def _dispatch(self, jobs: Sequence[_Job]) -> None:
        """Chooses each job's replica; jobs with the same way to go share a call."""
        jobs = [job for job in jobs if not job.verdict.done()]  # their callers may have left
        if self._closed:
            self._fail(jobs, ReplicaError("verifier: the pool was closed"))
            return
        if jobs and not any(replica.up for replica in self._replicas):
            self._spawn(self._dispatch_when_up(jobs), jobs)
            return
        ways: defaultdict[tuple[_Replica, _Replica | None, int], list[_Job]] = defaultdict(list)
        for index, job in enumerate(jobs):
            home = None if job.carry is None else self._home(job.carry)
            full = self._config.batch_tokens
            loads = {r.index: r.pending_tokens / full for r in self._replicas if r.up}
            target = self._replicas[choose_replica(loads, None if home is None else home.index)]
            covered = job.carry.num_tokens if job.carry is not None and home is not None else 0
            job.routed_tokens = len(job.reading.token_ids) - covered
            target.pending_tokens += job.routed_tokens
            if job.carry is not None and home is None and job.reading.keep_parent:
                self._remember(job.carry.key, target, target.epoch)  # it will be rebuilt there: siblings follow
            ways[target, home if home is not target else None, index if self._entry.alone else 0].append(job)
        # Copies first: a reading at home may free its parent.
        for (target, source, _), batch in sorted(ways.items(), key=lambda way: way[0][1] is None):
            self._spawn(self._serve(target, source, batch), batch)

    async def _dispatch_when_up(self, jobs: Sequence[_Job]) -> None:
        while not any(replica.up for replica in self._replicas):
            restarts = [replica.starting for replica in self._replicas if replica.starting is not None]
            if not restarts:
                raise PoolExhausted(
                    f"verifier: none of {len(self._replicas)} replicas is left"
                    f" after {self._config.max_restarts} restarts each; last: {self._why_lost}"
                )
            await asyncio.wait(restarts, return_when=asyncio.FIRST_COMPLETED)  # bounded by start_timeout_s
        self._dispatch(jobs)

    async def _serve(self, target: _Replica, source: _Replica | None, jobs: Sequence[_Job]) -> None:
        """Has the jobs read by `target`, rebuilding what it does not hold; elsewhere when it dies."""
        epoch, routed_tokens = target.epoch, sum(job.routed_tokens for job in jobs)
        batch = _Batch(jobs=list(jobs))
        try:
            if source is not None:
                keys = {job.carry.key for job in jobs if job.carry is not None}
                names = {key: f"{self._key_prefix}-{next(self._keys)}" for key in keys}
                batch.copied = names if await self._copy(source, target, names) else {}
            for attempt in (batch.as_told, batch.rebuilding, batch.from_scratch):
                runs = attempt()
                answers = await self._ask(target, epoch, target.actor.read.remote([run for _, run in runs]))
                missing: list[_Job] = []
                for (job, run), answer in zip(runs, answers, strict=True):
                    if isinstance(answer, Read | Unreadable):
                        job.tokens_read += answer.tokens_read
                        job.flops += answer.flops
                        if job.reading.carry is not None and run.parent is None:
                            covered = job.reading.carry.num_tokens
                            job.reingested_tokens += min(answer.tokens_read, covered)
                    if run.key != job.key:  # a rebuilt parent
                        assert job.carry is not None
                        self._remember(job.carry.key, target, epoch)
                    elif isinstance(answer, Read):
                        self._settle(job, run, answer, target, epoch)
                    elif isinstance(answer, Unreadable):
                        self._refuse(job, answer)
                    elif isinstance(answer, Missing):
                        missing.append(job)
                batch.jobs = missing
                if not missing:
                    return
            raise AssertionError("a run from scratch misses no state")
        except _Lost:
            self._dispatch(batch.jobs)
        finally:
            target.pending_tokens -= routed_tokens

    def _settle(self, job: _Job, run: Run, answer: Read, replica: _Replica, epoch: int) -> None:
        """Gives the verdict to who asked, or frees the state if nobody is there any more."""
        reading = job.reading
        carry = Carry(replica=replica.index, epoch=epoch, key=job.key, num_tokens=len(reading.token_ids))
        if reading.carry is not None and not reading.keep_parent:
            if run.parent == reading.carry.key:
                self._moved.pop(reading.carry.key, None)  # the host freed it
            else:
                self.release([reading.carry])
        if job.verdict.done():
            self.release([carry])
            return
        job.verdict.set_result(
            Verdict(
                scores=answer.scores,
                carry=carry,
                verifier_tokens=job.tokens_read,
                reingested_tokens=job.reingested_tokens,
                flops=job.flops,
            )
        )

    def _refuse(self, job: _Job, answer: Unreadable) -> None:
        """Says why there is no score, and what was read for that."""
        reading = job.reading
        if reading.carry is not None and not reading.keep_parent:
            self.release([reading.carry])
        if not job.verdict.done():
            job.verdict.set_result(
                Verdict(
                    scores=(),
                    carry=None,
                    verifier_tokens=job.tokens_read,
                    reingested_tokens=job.reingested_tokens,
                    flops=job.flops,
                    unjudged=answer.reason,
                )
            )

    # where states are

    def _home(self, carry: Carry) -> _Replica | None:
        """The replica that should hold the state; None when it went down with its replica."""
        index, epoch = self._moved.get(carry.key, (carry.replica, carry.epoch))
        if not 0 <= index < len(self._replicas):
            return None
        replica = self._replicas[index]
        return replica if replica.up and replica.epoch == epoch else None

    def _remember(self, key: str, replica: _Replica, epoch: int) -> None:
        self._moved[key] = (replica.index, epoch)
        self._moved.move_to_end(key)
        while len(self._moved) > self._max_moved:
            self._moved.popitem(last=False)

    async def _copy(self, source: _Replica, target: _Replica, names: dict[str, str]) -> bool:
        """Copies states through the object store, under new names; False when it came to nothing.

        What `source` does not hold will be found missing at `target`. Raises _Lost when `target` is.
        """
        epoch = target.epoch
        found, blobs = source.actor.export.options(num_returns=2).remote(list(names))
        try:
            if not await self._ask(source, source.epoch, found):
                return False
            await self._ask(target, epoch, target.actor.import_.remote(list(names.values()), blobs))
        except _Lost:
            if target.epoch != epoch:
                raise
            return False
        except ReplicaError as error:
            log.warning("verifier: a state was not moved and will be rebuilt: %s", error)
            return False
        return True

    # replicas

    async def _ask(self, replica: _Replica, epoch: int, ref: Any) -> Any:
        """The answer of a call. Raises _Lost when the replica died, or answered nobody for `stall_timeout_s`."""
        loop = asyncio.get_running_loop()
        answer = asyncio.wrap_future(ref.future())
        if replica.in_flight == 0:
            replica.progress_at = loop.time()
        replica.in_flight += 1
        try:
            while True:
                left = replica.progress_at + self._config.stall_timeout_s - loop.time()
                done, _ = await asyncio.wait([answer], timeout=max(0.0, left))
                if done:
                    replica.progress_at = loop.time()
                    return answer.result()
                if replica.epoch != epoch:
                    raise _Lost
                if replica.progress_at + self._config.stall_timeout_s <= loop.time():
                    self._lose(replica, epoch, f"no answer for {self._config.stall_timeout_s:g} s")
                    raise _Lost
        except RayTaskError as error:
            cause = error.cause
            raise ReplicaError(f"verifier: replica {replica.index}: {type(cause).__name__}: {cause}") from cause
        except RayActorError as error:
            self._lose(replica, epoch, str(error).splitlines()[0])
            raise _Lost from error
        except RayError as error:
            raise ReplicaError(f"verifier: replica {replica.index}: {error}") from error
        finally:
            answer.cancel()
            replica.in_flight -= 1
            if self._queued or self._released:
                self._schedule_flush()

    def _lose(self, replica: _Replica, epoch: int, why: str) -> None:
        """Counts a replica as dead and begins its restart, once per epoch."""
        if replica.epoch != epoch or self._closed:
            return
        self._why_lost = f"replica {replica.index}: {why}"
        log.warning("verifier: lost %s", self._why_lost)
        ray.kill(replica.actor)
        replica.epoch += 1
        replica.up, replica.pid = False, None
        self._released.pop(replica.index, None)
        replica.starting = self._spawn(self._restart(replica), [])

    async def _restart(self, replica: _Replica) -> None:
        try:
            while replica.restarts < self._config.max_restarts and not replica.up:
                replica.restarts += 1
                try:
                    await self._start(replica)
                except (ReplicaError, UserError) as error:
                    self._why_lost = str(error)
                    log.warning("verifier: replica %d did not restart: %s", replica.index, error)
        finally:
            replica.starting = None

    async def _start(self, replica: _Replica) -> None:
        """Makes the actor and has it load the model. Raises UserError when it can't be loaded, ReplicaError."""
        config, name = self._config, f"verifier: replica {replica.index}"
        replica.actor = _ACTOR.options(
            runtime_env={"env_vars": _MALLOC},
            num_cpus=config.num_cpus,
            num_gpus=config.num_gpus,
            max_restarts=0,
            max_concurrency=1000,
        ).remote()
        try:
            loading = asyncio.wrap_future(replica.actor.load.remote(self._entry, self._options, config).future())
            info, pid = await asyncio.wait_for(loading, config.start_timeout_s)
        except TimeoutError:
            raise ReplicaError(
                f"{name} did not start in {config.start_timeout_s:g} s; it needs {config.num_cpus} CPU and"
                f" {config.num_gpus:g} GPU, free in the cluster: {_free_resources()}"
            ) from None
        except RayActorError as error:
            raise ReplicaError(f"{name} died while it loaded: {str(error).splitlines()[0]}") from error
        except RayTaskError as error:
            if isinstance(error.cause, ValueError):
                raise UserError(str(error.cause)) from error.cause
            raise ReplicaError(f"{name}: {type(error.cause).__name__}: {error.cause}") from error.cause
        else:
            self._info = self._info or info
            if info != self._info:
                raise ReplicaError(f"{name} serves another model ({info.model_hash}) than {self._info.model_hash}")
            replica.up, replica.pid, replica.progress_at = True, pid, asyncio.get_running_loop().time()
        finally:
            if not replica.up:
                ray.kill(replica.actor)

    # tasks

    def _spawn(self, work: Coroutine[Any, Any, None], jobs: Sequence[_Job]) -> asyncio.Task[None]:
        """A task of the pool's; should it fail, `jobs` fail with it."""

        def finished(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            error = ReplicaError("verifier: the pool was closed") if task.cancelled() else task.exception()
            if error is not None:
                self._fail(jobs, error)

        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(finished)
        return task

    def _fail(self, jobs: Sequence[_Job], error: BaseException) -> None:
        for job in jobs:
            if not job.verdict.done():
                job.verdict.set_exception(error)

    def _release_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        self.release([verdict.carry for verdict in verdicts if verdict.carry is not None])

    async def _close(self) -> None:
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._fail(self._queued, ReplicaError("verifier: the pool was closed"))
        for replica in self._replicas:
            replica.up = False
            if replica.actor is not None:
                ray.kill(replica.actor)


def _succeeded(verdict: "asyncio.Future[Verdict]") -> bool:
    return verdict.done() and not verdict.cancelled() and verdict.exception() is None


def _free_resources() -> str:
    free = ray.available_resources()
    return f"{free.get('CPU', 0):g} CPU, {free.get('GPU', 0):g} GPU"

"""The driver's side of the verifier pool: which replica reads what, and what happens when one dies.

Readings wait here, by replica, and go to it in calls of what it can take. States stay where they are unless their
replica is overloaded. A state that was dropped, or went down with its replica, is rebuilt from the tokens: that costs
time and `reingested_tokens`, and never changes a score. A reading on which the verifier fails is found and is unjudged.
"""

import asyncio
import logging
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

from orchestrator.core.config import most_replicas
from orchestrator.core.errors import ReplicaError, UserError
from orchestrator.core.nouns import Score, StateHandle
from orchestrator.core.protocols import ScoreRequest, Verdict
from orchestrator.core.values import Parcel
from orchestrator.ray_calls import ReplicaBroken, ReplicaLost, ReplicaRemoved
from orchestrator.replicas.keeper import Keeper
from orchestrator.replicas.members import Members, Membership
from orchestrator.replicas.waiting import tell_waiting
from orchestrator.routing import choose_replica
from orchestrator.verifier.actor import TurnLapsed, VerifierRaised
from orchestrator.verifier.batch import Asked, Batch, Job, job_of
from orchestrator.verifier.blame import Blame, Fault
from orchestrator.verifier.blueprint import absolute, verifier_blueprint
from orchestrator.verifier.held import new_key
from orchestrator.verifier.replica import Replica, ReplicaStatus
from orchestrator.verifier.resolve import ResolvedVerifier
from orchestrator.verifier.states import States
from orchestrator.verifier.verdicts import judged
from verifiers.contract import Answer, Read, Run, Unreadable, VerifierInfo

log = logging.getLogger(__name__)


class VerifierPool:
    """Implements `OpenVerifier`. Owns what waits for its replicas and the tasks that talk to them."""

    def __init__(self, verifier: ResolvedVerifier, membership: Membership, client: str) -> None:
        """Use `open`."""
        config = verifier.config
        self._config, self._entry = config, verifier.entry
        self._membership = membership
        self.info: VerifierInfo = membership.current.serving[0].info  # what the verifier says about itself
        most = most_replicas(config)
        self._replicas = [Replica(index, verifier, client, self._on_lost) for index in range(most)]
        self._slots = config.slots
        self._states = States(self._replicas, most * (config.slots + config.host_slots))
        self._blame = Blame(most)
        self._client = client
        self._keys = count()
        self._arrived: list[Job] = []  # in this tick of the loop
        self._unplaced: list[Job] = []  # while no replica is up
        self._flush_scheduled = False
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(cls, verifier: ResolvedVerifier) -> AsyncIterator["VerifierPool"]:
        """Starts the replicas on a Ray that is up; leaving ends them. Raises UserError, ReplicaError."""
        if verifier.entry.host is None:
            raise UserError(f"verifier: wanted one that replicas can host, got {verifier.name}")
        verifier = absolute(verifier)
        keeper = Keeper(verifier_blueprint(verifier))
        try:
            await keeper.open()
            async with cls.attached(verifier, keeper, uuid.uuid4().hex[:8]) as pool:
                yield pool
        finally:
            await keeper.close()

    @classmethod
    @asynccontextmanager
    async def attached(
        cls, verifier: ResolvedVerifier, membership: Membership, client: str
    ) -> AsyncIterator["VerifierPool"]:
        """Works with replicas that somebody else keeps, one of which serves; leaving leaves them to work."""
        pool = cls(verifier, membership, client)
        pool._attend(membership.current)
        pool._spawn(pool._follow(), ())
        if verifier.config.max_replicas is not None:
            pool._spawn(tell_waiting(membership, client, pool._num_waiting), ())
        try:
            yield pool
        finally:
            await pool._close()

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
        return self.info.flops_per_token

    @property
    def state_bytes(self) -> int:
        return self.info.state_bytes

    @property
    def num_ready(self) -> int:
        return sum(replica.up for replica in self._replicas)

    def replicas(self) -> tuple[ReplicaStatus, ...]:
        return tuple(replica.status for replica in self._replicas)

    async def stats(self) -> list[dict[str, int]]:
        """Of the replicas that are up and stay so: `tokens_read` since their start, `states` of their `slots`,
        `replica`, `epoch`. Raises ReplicaError."""
        up = [replica for replica in self._replicas if replica.up]
        asked = (replica.ask(replica.epoch, lambda actor: actor.stats.remote()) for replica in up)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        counters = []
        for replica, answer in zip(up, answers, strict=True):
            if isinstance(answer, BaseException):
                if not isinstance(answer, ReplicaLost):
                    raise answer
            else:
                told = {"replica": replica.index, "epoch": replica.epoch, "slots": self._slots}
                counters.append({**answer, **told})
        return counters

    async def score(self, readings: Sequence[ScoreRequest]) -> list[Verdict]:
        """Verdicts in order. Raises PoolExhausted, ReplicaError."""
        if self._closed:
            raise ReplicaError("verifier: the pool is closed")
        if not readings:
            return []
        asked = Asked(len(readings))
        jobs = [job_of(reading, self._new_key(), asked) for reading in readings]
        for job in jobs:
            self._states.enter(job.reading)
        self._arrived.extend(jobs)
        self._schedule_flush()
        try:
            await asked.answered
        except asyncio.CancelledError:
            self._release_verdicts([job.outcome for job in jobs if isinstance(job.outcome, Verdict)])
            raise
        verdicts = [job.outcome for job in jobs if isinstance(job.outcome, Verdict)]
        for job in jobs:
            if isinstance(job.outcome, BaseException):
                self._release_verdicts(verdicts)
                raise job.outcome
        return verdicts

    def release(self, handles: Sequence[StateHandle]) -> None:
        """Frees states. A hint: releasing twice, or using a released handle, costs time and changes no score."""
        if self._closed:
            return
        self._states.release(handles)
        if self._states.any_released:
            self._schedule_flush()

    async def migrate(self, handle: StateHandle, replica: int) -> StateHandle:
        """Moves a state; earlier handles stay good. The handle itself when there is nothing to move."""
        if not 0 <= replica < len(self._replicas):
            raise ValueError(f"verifier: replica must be in 0..{len(self._replicas) - 1}, got {replica}")
        source, target = self._states.home(handle), self._replicas[replica]
        if not target.up:
            raise ReplicaError(f"verifier: replica {replica} is down")
        if source is None or source is target:
            return handle
        moved = await self._states.migrate(handle, source, target)
        self._schedule_flush()
        return moved

    # from readings to calls

    def _new_key(self) -> str:
        return new_key(self._client, next(self._keys))

    def _schedule_flush(self) -> None:
        if not self._flush_scheduled:
            self._flush_scheduled = True
            asyncio.get_running_loop().call_soon(self._flush)

    def _flush(self) -> None:
        """Places what came in this tick, sends what can be sent, and then has states forgotten."""
        self._flush_scheduled = False
        if self._closed:
            return
        jobs, self._arrived = self._arrived, []
        self._place(jobs)
        for replica in self._replicas:
            self._send(replica)
        asyncio.get_running_loop().call_soon(self._states.send_releases)  # after the calls that may need them

    def _place(self, jobs: Sequence[Job]) -> None:
        """Chooses the replica for which each job waits."""
        up = [replica for replica in self._replicas if replica.up]
        if not up:
            self._unplaced += jobs
            exhausted = self._membership.current.exhausted
            if exhausted is not None and not any(replica.queue.calls for replica in self._replicas):
                waiting, self._unplaced = self._unplaced, []
                self._fail(waiting, exhausted)
            return
        takers = [replica for replica in up if not replica.draining] or up
        for job in jobs:
            home = None if job.handle is None else self._states.home(job.handle)
            target = takers[0] if len(takers) == 1 else self._least_loaded(takers, home)
            covered = job.handle.num_tokens if job.handle is not None and home is not None else 0
            job.routed_tokens = max(1, len(job.reading.token_ids) - covered)
            if job.handle is not None and home is None and job.reading.keep_parent:
                self._states.remember(job.handle.key, target, target.epoch)  # it will be rebuilt there: siblings follow
            target.queue.add(job)

    def _least_loaded(self, up: Sequence[Replica], home: Replica | None) -> Replica:
        """Or the one that holds the state, unless it is overloaded."""
        loads = {replica.index: replica.queue.pending_tokens / self._config.batch_tokens for replica in up}
        return self._replicas[choose_replica(loads, None if home is None else home.index)]

    def _send(self, replica: Replica) -> None:
        """Has the replica read as many of its readings as it can take now; those whose states come from the same place
        share a call."""
        while replica.up and (jobs := replica.queue.take()):
            ways: defaultdict[Replica | None, list[Job]] = defaultdict(list)
            for job in jobs:
                home = None if job.handle is None else self._states.home(job.handle)
                ways[home if home is not replica else None].append(job)
            for source, batch in ways.items():
                replica.queue.began(batch, asyncio.get_running_loop().time())
                self._spawn(self._serve(replica, replica.epoch, source, batch), batch)

    async def _serve(self, replica: Replica, epoch: int, source: Replica | None, jobs: Sequence[Job]) -> None:
        """Has the jobs read, rebuilding what the replica does not hold; finds out whose fault it is when that fails."""
        loop = asyncio.get_running_loop()
        batch = Batch(jobs=[job for job in jobs if not self._left(job)])
        batch.shared = self._states.shared([job.reading for job in batch.jobs])
        fault, names = None, dict[str, str]()
        try:
            if source is not None and batch.jobs:
                names = {job.handle.key: self._new_key() for job in batch.jobs if job.handle is not None}
                batch.copied = names if await self._states.copy(source, replica, epoch, names) else {}
            for attempt in (batch.as_told, batch.rebuilding, batch.from_scratch):
                if batch.jobs:
                    batch.begun, turn = False, None
                    if batch.jobs[0].suspect:  # alone, also among the readings of other drivers
                        turn = await replica.ask(epoch, lambda actor: actor.turn.remote())
                    batch.begun = True
                    batch.jobs = await self._read(replica, epoch, attempt(), turn)
        except VerifierRaised as error:
            why = f"the verifier raises on it: {error}"
            fault = self._blame.raised(replica.index, epoch, batch.jobs)
            if fault is Fault.REPLICA:
                why = f"{replica.who}: it raises on one reading after another: {error}"
                replica.lose(epoch, ReplicaBroken(why))
        except (ReplicaRemoved, TurnLapsed):
            fault = Fault.OPEN  # nobody's
        except ReplicaLost as error:
            why = f"two replicas were lost while they read it; {error}"
            fault = self._blame.lost(replica.index, epoch, batch.jobs) if batch.begun else Fault.OPEN
        finally:
            num_tokens = sum(job.routed_tokens for job in jobs)
            replica.queue.ended(num_tokens, loop.time(), answered=fault is None)
            self._states.drop(list(names.values()), replica, epoch)  # those that the reading did not use up
            self._schedule_flush()
        if fault is Fault.READING:
            self._condemn(batch.jobs[0], why)
        elif fault is not None:
            self._arrived += batch.jobs

    async def _read(self, replica: Replica, epoch: int, runs: Sequence[tuple[Job, Run]], turn: int | None) -> list[Job]:
        """Has a replica read the runs. The jobs whose states it does not hold."""
        asked = Parcel(run for _, run in runs)
        answers: list[Answer] = await replica.ask(epoch, lambda actor: actor.read.remote(asked, turn))
        missing: list[Job] = []
        if any(isinstance(answer, Read | Unreadable) for answer in answers):
            self._excuse(self._blame.answered(replica.index))
        for (job, run), answer in zip(runs, answers, strict=True):
            if isinstance(answer, Read | Unreadable):
                job.tokens_read += answer.tokens_read
                job.flops += answer.flops
                if job.reading.handle is not None and run.parent is None:
                    covered = job.reading.handle.num_tokens
                    job.reingested_tokens += min(answer.tokens_read, covered)
            if run.key != job.key:  # a rebuilt parent
                assert job.handle is not None
                self._states.rebuilt(job.handle, replica, epoch)
            elif isinstance(answer, Read):
                self._settle(job, run, answer, replica, epoch)
            elif isinstance(answer, Unreadable):
                self._refuse(job, answer.reason)
            elif run.parent is None:
                self._refuse(job, "the verifier misses a state for a reading that starts from none")
            else:
                missing.append(job)
        return missing

    def _settle(self, job: Job, run: Run, answer: Read, replica: Replica, epoch: int) -> None:
        """Gives the verdict to who asked, or frees the state if nobody is there any more."""
        reading = job.reading
        freed = reading.handle is not None and run.parent == reading.handle.key and not run.keep_parent
        self._states.leave(reading, freed=freed)
        handle = StateHandle(replica=replica.index, epoch=epoch, key=job.key, num_tokens=len(reading.token_ids))
        verdict = self._verdict(job, answer.scores, handle)
        if verdict.unjudged is not None or job.done:
            self.release([handle])
        if not job.done:
            job.settle(verdict)

    def _refuse(self, job: Job, reason: str) -> None:
        """Says why there is no score, and what was read for that."""
        self._states.leave(job.reading)
        if not job.done:
            job.settle(self._verdict(job, (), None, reason))

    def _verdict(
        self, job: Job, scores: Sequence[Score], handle: StateHandle | None, unjudged: str | None = None
    ) -> Verdict:
        return judged(
            job.reading,
            scores,
            handle=handle,
            verifier_tokens=job.tokens_read,
            reingested_tokens=job.reingested_tokens,
            flops=job.flops,
            unjudged=unjudged,
        )

    def _condemn(self, job: Job, why: str) -> None:
        log.warning("verifier: a reading can't be judged: %s", why)
        self._refuse(job, why)
        self._excuse(self._blame.condemned())

    def _left(self, job: Job) -> bool:
        """Whether nobody waits for its verdict any more."""
        if job.done:
            self._states.leave(job.reading)
        return job.done

    def _excuse(self, lost: Sequence[tuple[int, int]]) -> None:
        if lost:
            self._membership.excuse(lost)

    # replicas

    async def _follow(self) -> None:
        """Works with the replicas that the keeper says are there."""
        members = self._membership.current
        while True:
            members = await self._membership.after(members.version)
            self._attend(members)

    def _attend(self, members: Members) -> None:
        serving = {member.index: member for member in members.serving}
        for replica in self._replicas:
            member = serving.get(replica.index)
            if replica.up and (member is None or member.epoch != replica.epoch):
                why = members.why_lost[replica.index]
                replica.lose(replica.epoch, ReplicaRemoved(why) if replica.draining else ReplicaError(why))
            if member is not None and (replica.member is None or replica.member.term < member.term):
                replica.join(member)
            replica.draining = member is not None and member.draining
            if replica.draining:
                self._arrived += replica.queue.drain()
        waiting, self._unplaced = self._unplaced, []
        self._arrived += waiting
        self._schedule_flush()

    def _num_waiting(self) -> float:
        """Work that waits here, counted in replicas: in calls of their size."""
        return sum(replica.queue.num_waiting_calls for replica in self._replicas)

    def _on_lost(self, replica: Replica, error: ReplicaError) -> None:
        self._states.lost(replica)
        self._arrived += replica.queue.drain()
        self._schedule_flush()
        assert replica.member is not None, "what is lost was there"
        self._membership.report(replica.member, error)

    # tasks

    def _spawn(self, work: Coroutine[Any, Any, None], jobs: Sequence[Job]) -> asyncio.Task[None]:
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

    def _fail(self, jobs: Sequence[Job], error: BaseException) -> None:
        for job in jobs:
            if not job.done:
                self._states.leave(job.reading)
                job.settle(error)

    def _release_verdicts(self, verdicts: Sequence[Verdict]) -> None:
        self.release([verdict.handle for verdict in verdicts if verdict.handle is not None])

    async def _close(self) -> None:
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        waiting = [job for replica in self._replicas for job in replica.queue.drain()]
        self._fail([*self._arrived, *self._unplaced, *waiting], ReplicaError("verifier: the pool was closed"))

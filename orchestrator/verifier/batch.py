"""Readings on their way to verdicts, and the calls that carry them to a replica. Nothing here knows Ray."""

import asyncio
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from orchestrator.core.nouns import StateHandle
from orchestrator.core.protocols import ScoreRequest, Verdict
from verifiers.contract import Run

_CALLS_IN_FLIGHT = 2  # per replica: one is read and one waits; what comes meanwhile shares the next call
_SHARE_OF_DEADLINE = 0.25  # a call is cut to what takes this share of the time without progress that is allowed
_PACE_KEPT = 0.8  # how much of the earlier calls' pace is kept at each call


@dataclass(slots=True, eq=False)
class Asked:
    """Readings that were asked for together. Who waits for them waits once, for all."""

    num_open: int  # that have no outcome yet
    answered: asyncio.Future[None] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    def settled(self) -> None:
        """One of them has its outcome."""
        self.num_open -= 1
        if not self.num_open and not self.answered.done():
            self.answered.set_result(None)


@dataclass(slots=True, eq=False)
class Job:
    """A reading on its way to its verdict."""

    reading: ScoreRequest
    key: str  # of the state after its last token
    asked: Asked
    handle: StateHandle | None  # what it can start from
    routed_tokens: int = 0
    tokens_read: int = 0
    reingested_tokens: int = 0
    flops: float = 0.0
    suspect: bool = False  # a call that held it failed: it is read alone
    lost: list[tuple[int, int]] = field(default_factory=list)  # (replica, epoch) that was lost while it had it
    raised: list[tuple[int, int]] = field(default_factory=list)  # (replica, epoch) that raised while they read it alone
    outcome: Verdict | BaseException | None = None

    @property
    def done(self) -> bool:
        """Whether nobody waits for it any more."""
        return self.outcome is not None or self.asked.answered.cancelled()

    def settle(self, outcome: Verdict | BaseException) -> None:
        self.outcome = outcome
        self.asked.settled()


def job_of(reading: ScoreRequest, key: str, asked: Asked) -> Job:
    """Raises ValueError for boundaries or a handle that don't fit the tokens."""
    num_tokens, boundaries, handle = len(reading.token_ids), reading.boundaries, reading.handle
    before = 0
    for boundary in (*boundaries, num_tokens + 1):
        if boundary <= before:
            raise ValueError(f"verifier: boundaries must increase within 1..{num_tokens}, got {boundaries}")
        before = boundary
    if handle is not None and handle.num_tokens > num_tokens:
        raise ValueError(f"verifier: handle covers {handle.num_tokens} tokens, the reading has {num_tokens}")
    if handle is not None and boundaries and boundaries[0] <= handle.num_tokens:
        handle = None  # a state can't tell the scores before it
    return Job(reading=reading, key=key, asked=asked, handle=handle)


@dataclass(slots=True, eq=False)
class Batch:
    """Jobs of one call. `copied`: names there of states that another replica holds."""

    jobs: list[Job]
    begun: bool = False  # should the replica be lost now, it may be their fault
    copied: dict[str, str] = field(default_factory=dict)
    shared: frozenset[str] = frozenset()  # keys of states from which readings outside the batch start, too

    def as_told(self) -> list[tuple[Job, Run]]:
        """Each job from its handle."""
        return [(job, self._run(job, job.handle)) for job in self.jobs]

    def rebuilding(self) -> list[tuple[Job, Run]]:
        """The handles' states are not there: each is read again, once for all who start from it."""
        runs: list[tuple[Job, Run]] = []
        sharing: defaultdict[str, list[Job]] = defaultdict(list)
        for job in self.jobs:
            if job.handle is not None:
                sharing[job.handle.key].append(job)
        self.copied = {}
        for key, jobs in sharing.items():
            handle = jobs[0].handle
            assert handle is not None
            alone = len(jobs) == 1 and not self._keeps_parent(jobs[0])
            if alone or jobs[0].reading.solution is not None:  # a text can't be cut where the handle's tokens end
                runs.extend((job, self._run(job, None)) for job in jobs)
                continue
            runs.append((jobs[0], Run(key=key, token_ids=jobs[0].reading.token_ids[: handle.num_tokens])))
            runs.extend((job, self._run(job, handle)) for job in jobs)
        return runs

    def from_scratch(self) -> list[tuple[Job, Run]]:
        """No room even for those: each job reads all its tokens."""
        return [(job, self._run(job, None)) for job in self.jobs]

    def _keeps_parent(self, job: Job) -> bool:
        return job.reading.keep_parent or (job.handle is not None and job.handle.key in self.shared)

    def _run(self, job: Job, handle: StateHandle | None) -> Run:
        reading = job.reading
        if handle is None:
            return Run(
                key=job.key, token_ids=reading.token_ids, boundaries=reading.boundaries, solution=reading.solution
            )
        copy = self.copied.get(handle.key)
        return Run(
            key=job.key,
            token_ids=reading.token_ids[handle.num_tokens :],
            boundaries=tuple(boundary - handle.num_tokens for boundary in reading.boundaries),
            parent=copy or handle.key,
            parent_tokens=handle.num_tokens,
            keep_parent=self._keeps_parent(job) and copy is None,
            solution=reading.solution,
        )


class CallQueue:
    """The readings that wait for one replica, and how many of them its next call takes.

    A call is cut to what the replica reads in a part of its deadline, by the pace that it has shown, so that a slow
    one is not taken for a dead one. A suspect is sent alone, while nothing else is read there.
    """

    def __init__(self, *, batch_tokens: int, stall_timeout_s: float, one_run_per_call: bool) -> None:
        """`batch_tokens`: the most in a call, unless each takes one run."""
        self._batch_tokens, self._one_run_per_call = batch_tokens, one_run_per_call
        self._call_s = _SHARE_OF_DEADLINE * stall_timeout_s
        self._waiting: deque[Job] = deque()
        self.pending_tokens = 0  # that wait, or were sent and not answered
        self.calls = 0  # in flight
        self._reading_suspect = False
        self._busy_since = 0.0
        self._tokens, self._seconds = 0.0, 0.0  # of the calls that were answered, the earlier the less

    @property
    def num_waiting_calls(self) -> float:
        """Calls of full size that those which wait would fill."""
        if self._one_run_per_call:
            return len(self._waiting)
        return sum(job.routed_tokens for job in self._waiting) / self._batch_tokens

    def add(self, job: Job) -> None:
        self._waiting.append(job)
        self.pending_tokens += job.routed_tokens

    def drain(self) -> list[Job]:
        """Takes out all that waits."""
        jobs = list(self._waiting)
        self._waiting.clear()
        self.pending_tokens -= sum(job.routed_tokens for job in jobs)
        return jobs

    def take(self) -> list[Job]:
        """The readings to send now, in the order in which they came; none while the replica has enough to do."""
        if not self._waiting or self.calls >= _CALLS_IN_FLIGHT or self._reading_suspect:
            return []
        if self._waiting[0].suspect:
            return [] if self.calls else [self._waiting.popleft()]
        taken = [self._waiting.popleft()]
        left = self._most_tokens() - taken[0].routed_tokens
        while self._waiting and not self._one_run_per_call and not self._waiting[0].suspect:
            left -= self._waiting[0].routed_tokens
            if left < 0:
                break
            taken.append(self._waiting.popleft())
        return taken

    def began(self, jobs: Sequence[Job], now: float) -> None:
        """A call was sent."""
        if self.calls == 0:
            self._busy_since = now
        self.calls += 1
        self._reading_suspect = jobs[0].suspect

    def ended(self, num_tokens: int, now: float, *, answered: bool) -> None:
        """A call of so many routed tokens is over."""
        self.calls -= 1
        self._reading_suspect = False
        self.pending_tokens -= num_tokens
        if answered:
            self._tokens = _PACE_KEPT * self._tokens + num_tokens
            self._seconds = _PACE_KEPT * self._seconds + now - self._busy_since
            self._busy_since = now

    def _most_tokens(self) -> int:
        if self._seconds == 0:
            return 0  # the first call is one reading, which shows the pace
        return min(self._batch_tokens, int(self._tokens / self._seconds * self._call_s))

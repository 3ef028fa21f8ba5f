"""Runs many searches, bounded in flight, and turns each into rows. The one place where a fault becomes a row.

Searches that share a workload are all begun at once, because its budget goes to whoever gains most; the workload then
bounds what is in flight.

A problem that fails is a row with its error and the run goes on. What concerns every problem (a user's mistake, a
pool with no replica left, a full disk) ends the run; what was finished by then is saved.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from typing import Any, Protocol

from orchestrator.core.errors import ReplicaError, UserError, first_error
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import Comparison, Problem, SearchResult, Step
from orchestrator.core.protocols import SharesWorkload, Strategy, Workload
from orchestrator.results import CandidateRow, Costs, ProblemRow, RowKey, to_json
from orchestrator.session import SearchSession


class Grader(Protocol):
    """Ground truth. It holds the reference answers, which problems do not."""

    async def grade(self, problem: Problem, answers: Sequence[str | None]) -> list[Comparison]: ...


class Results(Protocol):
    """Where rows go. `orchestrator.results.ResultsWriter` is one."""

    def done_keys(self) -> set[RowKey]:
        """Keys of the rows that need no more work."""
        ...

    def num_candidates(self, key: RowKey) -> int:
        """How many candidates a row of `done_keys` cost."""
        ...

    def add(self, problem: ProblemRow, candidates: Sequence[CandidateRow]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One problem under one strategy and seed."""

    problem: Problem
    strategy_name: str
    strategy: Strategy
    seed: int

    @property
    def params(self) -> str:
        return to_json(asdict(self.strategy))  # type: ignore[call-overload]

    @property
    def key(self) -> RowKey:
        return (self.problem.id, self.strategy_name, self.params, self.seed)

    @property
    def label(self) -> str:
        return strategy_label(self.strategy_name, self.strategy)


def strategy_label(name: str, strategy: Any) -> str:
    """For tables and pictures: the name, n, and what differs from the defaults."""
    shown = [
        f"{field.name}={getattr(strategy, field.name)}"
        for field in fields(strategy)
        if field.name == "n" or getattr(strategy, field.name) != field.default
    ]
    return " ".join([name, *shown])


def check_distinct(jobs: Sequence[Job]) -> None:
    """Raises UserError if the rows of two jobs could not be told apart."""
    keys = [job.key for job in jobs]
    if len(set(keys)) < len(keys):
        raise UserError("strategies: two entries (or two seeds) are the same, so their rows could not be told apart")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What every row of a run says about it."""

    run_id: str
    policy_model: str
    verifier_model: str | None
    version: str


OnRow = Callable[[ProblemRow, Sequence[CandidateRow]], None]
"""Told of each row as it is added."""


async def run_jobs(
    jobs: Sequence[Job],
    *,
    open_session: Callable[[int], SearchSession],
    grader: Grader,
    results: Results,
    info: RunInfo,
    in_flight: int,
    timeout_s: float,
    on_row: OnRow,
) -> None:
    """Runs the jobs that have no row yet, at most `in_flight` at a time; rows are added as jobs end.

    Jobs that share a workload come last, one (strategy, seed) after the other; there `in_flight` bounds the grants.
    `open_session(seed)` makes the session of one job. Raises UserError and ReplicaError, after the jobs in flight
    were cancelled and released.
    """
    done = results.done_keys()
    alone = iter([job for job in jobs if job.key not in done and not isinstance(job.strategy, SharesWorkload)])

    async def solve(job: Job, workload: Workload | None = None) -> None:
        row, candidates = await _solve(job, open_session, grader, info, timeout_s, workload)
        results.add(row, candidates)
        on_row(row, candidates)

    async def work(queue: Iterator[Job]) -> None:
        for job in queue:
            await solve(job)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(work(alone))
        for strategy, sharing in _sharing(jobs):
            spent = [results.num_candidates(job.key) for job in sharing if job.key in done]
            if len(spent) == len(sharing):
                continue
            workload = strategy.open_workload(len(sharing), in_flight, done=len(spent), spent=sum(spent))
            async with asyncio.TaskGroup() as tasks:
                for job in sharing:
                    if job.key not in done:
                        tasks.create_task(solve(job, workload))
    except ExceptionGroup as group:
        raise first_error(group) from None


def _sharing(jobs: Sequence[Job]) -> list[tuple[SharesWorkload, list[Job]]]:
    """The jobs that share a workload: those of one strategy and seed."""
    groups: dict[tuple[str, str, int], tuple[SharesWorkload, list[Job]]] = {}
    for job in jobs:
        if isinstance(job.strategy, SharesWorkload):
            key = (job.strategy_name, job.params, job.seed)
            groups.setdefault(key, (job.strategy, []))[1].append(job)
    return list(groups.values())


class _Turns:
    """A workload as one job sees it: the job's time stands still while it waits for its turn."""

    def __init__(self, workload: Workload, deadline: asyncio.Timeout) -> None:
        self._workload = workload
        self._deadline = deadline
        self.waited_s = 0.0

    async def grant(self, problem_id: str, *, gain: float, samples: int) -> int:
        clock = asyncio.get_running_loop().time
        started, end = clock(), self._deadline.when()
        assert end is not None, "a job waits for one grant at a time"
        self._deadline.reschedule(None)
        try:
            return await self._workload.grant(problem_id, gain=gain, samples=samples)
        finally:
            waited_s = clock() - started
            self.waited_s += waited_s
            self._deadline.reschedule(end + waited_s)

    def leave(self, problem_id: str) -> None:
        self._workload.leave(problem_id)


async def _solve(
    job: Job,
    open_session: Callable[[int], SearchSession],
    grader: Grader,
    info: RunInfo,
    timeout_s: float,
    workload: Workload | None = None,
) -> tuple[ProblemRow, list[CandidateRow]]:
    started, started_at = time.monotonic(), datetime.now(UTC)
    turns: _Turns | None = None
    result: SearchResult | None = None
    grades: list[Comparison] = []
    groups: list[int | None] = []
    error: str | None = None
    session = open_session(job.seed)
    try:
        async with asyncio.timeout(timeout_s) as deadline, session:
            if workload is not None:
                session.workload = turns = _Turns(workload, deadline)
            result = await job.strategy.search(job.problem, session)
        result = session.concluded(result)
        wall_s = time.monotonic() - started
        trajectories = [candidate.trajectory for candidate in result.candidates]
        groups = await session.group_answers(trajectories)
        grades = await grader.grade(job.problem, [trajectory.answer for trajectory in trajectories])
    except (UserError, ReplicaError):
        raise
    except Exception as problem_error:
        late = isinstance(problem_error, TimeoutError) and deadline.expired()
        error = f"no answer after {timeout_s:g} s" if late else f"{type(problem_error).__name__}: {problem_error}"
        wall_s, result = time.monotonic() - started, None
    finally:
        if workload is not None:
            workload.leave(job.problem.id)  # the others wait for its bid, also where its search did not begin
    if turns is not None:
        wall_s -= turns.waited_s
    row = _problem_row(job, info, result, grades, error, session.ledger, started_at, wall_s)
    return row, _candidate_rows(job, info, result, groups, grades) if result is not None else []


def _problem_row(
    job: Job,
    info: RunInfo,
    result: SearchResult | None,
    grades: Sequence[Comparison],
    error: str | None,
    ledger: Ledger,
    started_at: datetime,
    wall_s: float,
) -> ProblemRow:
    grade = Comparison(equal=None)
    if result is not None:
        grade = Comparison(equal=False) if result.chosen is None else grades[result.chosen]
    return ProblemRow(
        run_id=info.run_id,
        problem_id=job.problem.id,
        difficulty=job.problem.difficulty,
        strategy=job.strategy_name,
        params=job.params,
        label=job.label,
        n=getattr(job.strategy, "n", None),
        seed=job.seed,
        answer=None if result is None else result.answer,
        correct=grade.equal,
        undecided=grade.reason,
        score=None if result is None else result.score,
        status="ok" if result is not None else "error",
        end_reason=None if result is None else result.end_reason.value,
        selection=None if result is None or result.selection is None else result.selection.value,
        error=error,
        **_costs(ledger),
        num_candidates=ledger.candidates,
        peak_state_bytes=ledger.peak_state_bytes,
        verifier_s=ledger.verifier_s,
        wall_s=wall_s,
        policy_model=info.policy_model,
        verifier_model=info.verifier_model,
        version=info.version,
        detail=to_json({} if result is None else result.detail),
        started_at=started_at,
        finished_at=datetime.now(UTC),
    )


def _candidate_rows(
    job: Job, info: RunInfo, result: SearchResult, groups: Sequence[int | None], grades: Sequence[Comparison]
) -> list[CandidateRow]:
    return [
        CandidateRow(
            run_id=info.run_id,
            problem_id=job.problem.id,
            strategy=job.strategy_name,
            params=job.params,
            label=job.label,
            seed=job.seed,
            candidate=index,
            token_ids=candidate.trajectory.completion_ids,
            text=candidate.trajectory.text,
            answer=candidate.trajectory.answer,
            answer_group=groups[index],
            correct=grades[index].equal,
            undecided=grades[index].reason,
            chosen=index == result.chosen,
            status=candidate.trajectory.status.value,
            step_scores=[_mean(step) for step in candidate.trajectory.steps],
            step_uncertainties=[_std(step) for step in candidate.trajectory.steps],
            step_token_counts=[len(step.token_ids) for step in candidate.trajectory.steps],
            aggregate_score=candidate.aggregate_score,
            unjudged=candidate.trajectory.unjudged,
            **_costs(candidate.trajectory.cost),
        )
        for index, candidate in enumerate(result.candidates)
    ]


def _costs(ledger: Ledger) -> dict[str, Any]:
    return {column.name: getattr(ledger, column.name) for column in fields(Costs)}


def _mean(step: Step) -> float | None:
    return None if step.score is None else step.score.mean


def _std(step: Step) -> float | None:
    return None if step.score is None else step.score.std

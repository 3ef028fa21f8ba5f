"""Runs many searches, bounded in flight, and turns each into rows. The one place where a fault becomes a row.

A problem that fails is a row with its error and the run goes on. What concerns every problem (a user's mistake, a
pool with no replica left, a full disk) ends the run; what was finished by then is saved.
"""

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from orchestrator.core.errors import ReplicaError, UserError, first_error
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import EndReason, Problem, SearchResult, Step
from orchestrator.core.protocols import Strategy
from orchestrator.results import CandidateRow, ProblemRow, ResultsWriter, RowKey, to_json
from orchestrator.session import SearchSession


class Grader(Protocol):
    """Ground truth. It holds the reference answers, which problems do not."""

    async def grade(self, problem: Problem, answers: Sequence[str | None]) -> list[bool]: ...


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


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInfo:
    """What every row of a run says about it."""

    run_id: str
    policy_model: str
    verifier_model: str | None
    version: str


async def run_jobs(
    jobs: Sequence[Job],
    *,
    open_session: Callable[[int], SearchSession],
    grader: Grader,
    results: ResultsWriter,
    info: RunInfo,
    in_flight: int,
    timeout_s: float,
    on_row: Callable[[ProblemRow], None],
) -> None:
    """Runs the jobs that have no row yet, at most `in_flight` at a time; rows are added as jobs end.

    `open_session(seed)` makes the session of one job. Raises UserError and ReplicaError, after the jobs in flight
    were cancelled and released.
    """
    done = results.done_keys()
    waiting = iter([job for job in jobs if job.key not in done])

    async def work(queue: Iterator[Job]) -> None:
        for job in queue:
            row, candidates = await _solve(job, open_session, grader, info, timeout_s)
            results.add(row, candidates)
            on_row(row)

    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(in_flight):
                tasks.create_task(work(waiting))
    except ExceptionGroup as group:
        raise first_error(group) from None


async def _solve(
    job: Job, open_session: Callable[[int], SearchSession], grader: Grader, info: RunInfo, timeout_s: float
) -> tuple[ProblemRow, list[CandidateRow]]:
    started = time.monotonic()
    result: SearchResult | None = None
    correct: list[bool] = []
    error: str | None = None
    session = open_session(job.seed)
    try:
        async with asyncio.timeout(timeout_s) as deadline, session:
            result = await job.strategy.search(job.problem, session)
        if session.cut_short:
            result = replace(result, end_reason=EndReason.BUDGET)
        wall_s = time.monotonic() - started
        correct = await grader.grade(job.problem, [c.trajectory.answer for c in result.candidates])
    except (UserError, ReplicaError):
        raise
    except Exception as problem_error:
        late = isinstance(problem_error, TimeoutError) and deadline.expired()
        error = f"no answer after {timeout_s:g} s" if late else f"{type(problem_error).__name__}: {problem_error}"
        wall_s, result = time.monotonic() - started, None
    row = _problem_row(job, info, result, correct, error, session.ledger, wall_s)
    return row, _candidate_rows(job, info, result, correct) if result is not None else []


def _problem_row(
    job: Job,
    info: RunInfo,
    result: SearchResult | None,
    correct: list[bool],
    error: str | None,
    ledger: Ledger,
    wall_s: float,
) -> ProblemRow:
    chosen = None if result is None else result.chosen
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
        correct=None if result is None else chosen is not None and correct[chosen],
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
        finished_at=datetime.now(UTC),
    )


def _candidate_rows(job: Job, info: RunInfo, result: SearchResult, correct: list[bool]) -> list[CandidateRow]:
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
            correct=correct[index],
            chosen=index == result.chosen,
            status=candidate.trajectory.status.value,
            step_scores=[_mean(step) for step in candidate.trajectory.steps],
            step_uncertainties=[_std(step) for step in candidate.trajectory.steps],
            step_token_counts=[len(step.token_ids) for step in candidate.trajectory.steps],
            aggregate_score=candidate.aggregate_score,
            **_costs(candidate.trajectory.cost),
        )
        for index, candidate in enumerate(result.candidates)
    ]


def _costs(ledger: Ledger) -> dict[str, Any]:
    """The columns that a problem and a candidate have in common."""
    names = (
        "prompt_tokens",
        "cached_tokens",
        "generated_tokens",
        "discarded_tokens",
        "speculative_tokens",
        "verifier_tokens",
        "reingested_tokens",
        "policy_flops",
        "verifier_flops",
        "queue_s",
        "engine_s",
    )
    return {name: getattr(ledger, name) for name in names}


def _mean(step: Step) -> float | None:
    return None if step.score is None else step.score.mean


def _std(step: Step) -> float | None:
    return None if step.score is None else step.score.std

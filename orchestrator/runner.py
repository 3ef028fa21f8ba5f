"""Runs many searches, bounded in flight, and turns each into rows. The one place where a fault becomes a row.

Searches that share a workload are all begun at once, because its budget goes to the problems that gain most. The
workload then bounds what is in flight.

A problem that fails is a row with its error and the run goes on. What concerns every problem (a user's mistake, a
pool with no replica left, a full disk) ends the run; what was finished by then is saved.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from functools import partial
from typing import Any, Protocol

import pyarrow as pa

from orchestrator.core.errors import ReplicaError, UserError
from orchestrator.core.ledger import Ledger
from orchestrator.core.nouns import Comparison, Problem, SearchResult, Step
from orchestrator.core.protocols import SharesWorkload, Strategy, Workload
from orchestrator.results import CandidateRow, Costs, ProblemRow, RowKey, to_json, tree_table
from orchestrator.results.trees import TreeRecorder
from orchestrator.search import SessionOfSeed, for_each, solve, told


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

    def add(self, problem: ProblemRow, candidates: Sequence[CandidateRow], tree: pa.Table | None) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One problem under one strategy and seed."""

    problem: Problem
    strategy_name: str
    strategy: Strategy
    seed: int

    @property
    def params(self) -> str:
        return to_json(asdict(self.strategy))

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


Solved = tuple[ProblemRow, list[CandidateRow], pa.Table | None]
"""What became of a job: its row, its candidates, and its tree where trees are kept."""
SolveJob = Callable[[Job, Workload | None], Awaitable[Solved]]
"""`solve_job`, wherever it runs."""


async def run_jobs(
    jobs: Sequence[Job],
    *,
    session_of: SessionOfSeed,
    grader: Grader,
    results: Results,
    info: RunInfo,
    in_flight: int,
    timeout_s: float,
    on_row: OnRow,
) -> None:
    """Hands the jobs out (`hand_out`) in this process. `session_of(seed)` makes the session of one job
    (`SearchRuntime.session`)."""
    solving = partial(solve_job, session_of=session_of, grader=grader, info=info, timeout_s=timeout_s)
    await hand_out(jobs, solving, results=results, in_flight=in_flight, on_row=on_row)


async def hand_out(
    jobs: Sequence[Job],
    solve: SolveJob,
    *,
    results: Results,
    in_flight: int,
    on_row: OnRow,
) -> None:
    """Has the jobs solved that have no row yet, at most `in_flight` at a time; rows are added as jobs end.

    Jobs that share a workload come last, one (strategy, seed) after the other; there `in_flight` bounds the grants.
    Raises UserError and ReplicaError, after the jobs in flight were cancelled.
    """
    done = results.done_keys()
    independent = [job for job in jobs if job.key not in done and not isinstance(job.strategy, SharesWorkload)]

    async def work(job: Job, workload: Workload | None = None) -> None:
        row, candidates, tree = await solve(job, workload)
        results.add(row, candidates, tree)
        on_row(row, candidates)

    await for_each(independent, work, in_flight=in_flight)
    for strategy, sharing in _sharing(jobs):
        left = [job for job in sharing if job.key not in done]
        if not left:
            continue
        spent = [results.num_candidates(job.key) for job in sharing if job.key in done]
        workload = strategy.open_workload(len(sharing), in_flight, done=len(spent), spent=sum(spent))
        await for_each(left, partial(work, workload=workload), in_flight=len(left))


def _sharing(jobs: Sequence[Job]) -> list[tuple[SharesWorkload, list[Job]]]:
    """The jobs that share a workload: those of one strategy and seed."""
    groups: dict[tuple[str, str, int], tuple[SharesWorkload, list[Job]]] = {}
    for job in jobs:
        if isinstance(job.strategy, SharesWorkload):
            key = (job.strategy_name, job.params, job.seed)
            groups.setdefault(key, (job.strategy, []))[1].append(job)
    return list(groups.values())


async def solve_job(
    job: Job,
    workload: Workload | None,
    *,
    session_of: SessionOfSeed,
    grader: Grader,
    info: RunInfo,
    timeout_s: float,
    keep_tree: bool = False,
) -> Solved:
    """Searches, grades, and leaves the workload. Raises UserError and ReplicaError."""
    started_at = datetime.now(UTC)
    recorder = TreeRecorder() if keep_tree else None
    session = session_of(job.seed, recorder)
    outcome = await solve(job.problem, job.strategy.search, session, timeout_s=timeout_s, workload=workload)
    result, error = outcome.result, outcome.error
    grades: list[Comparison] = []
    groups: list[int | None] = []
    if result is not None:
        trajectories = [candidate.trajectory for candidate in result.candidates]
        try:
            groups = await session.group_answers(trajectories)
            grades = await grader.grade(job.problem, [trajectory.answer for trajectory in trajectories])
        except (UserError, ReplicaError):
            raise
        except Exception as grading_error:
            result, error = None, grading_error
    keys = _keys(job, info)
    row = _problem_row(
        job, info, keys, result, grades, told(error) if error else None, session.ledger, started_at, outcome.wall_s
    )
    tree = None if recorder is None else tree_table(recorder.rows(job.problem.text, keys))
    return row, _candidate_rows(keys, result, groups, grades) if result is not None else [], tree


def _keys(job: Job, info: RunInfo) -> dict[str, Any]:
    """The columns that a problem's row shares with those of its candidates."""
    return {
        "run_id": info.run_id,
        "problem_id": job.problem.id,
        "strategy": job.strategy_name,
        "params": job.params,
        "label": job.label,
        "seed": job.seed,
    }


def _problem_row(
    job: Job,
    info: RunInfo,
    keys: Mapping[str, Any],
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
        **keys,
        difficulty=job.problem.difficulty,
        n=getattr(job.strategy, "n", None),
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
    keys: Mapping[str, Any], result: SearchResult, groups: Sequence[int | None], grades: Sequence[Comparison]
) -> list[CandidateRow]:
    return [
        CandidateRow(
            **keys,
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
            **_confidences(candidate.trajectory.steps),
            aggregate_score=candidate.aggregate_score,
            unjudged=candidate.trajectory.unjudged,
            **_costs(candidate.trajectory.cost),
        )
        for index, candidate in enumerate(result.candidates)
    ]


def _confidences(steps: Sequence[Step]) -> dict[str, Any]:
    """What the steps hold of the policy's log-probabilities, by column; None where no step holds any."""
    known = [step.confidence for step in steps]
    tokens: list[float | None] = []
    for step in steps:
        own = () if step.confidence is None else step.confidence.tokens
        tokens += [*own, *[None] * (len(step.token_ids) - len(own))]
    columns: dict[str, list[float | None]] = {
        "step_logprobs": [step.logprob for step in steps],
        "step_confidences": [None if one is None else one.mean for one in known],
        "step_entropies": [None if one is None else one.entropy for one in known],
        "step_self_certainties": [None if one is None else one.self_certainty for one in known],
        "token_confidences": tokens,
    }
    return {name: None if all(value is None for value in values) else values for name, values in columns.items()}


def _costs(ledger: Ledger) -> dict[str, Any]:
    return {column.name: getattr(ledger, column.name) for column in fields(Costs)}


def _mean(step: Step) -> float | None:
    return None if step.score is None else step.score.mean


def _std(step: Step) -> float | None:
    return None if step.score is None else step.score.std

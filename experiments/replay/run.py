"""`headrace replay`: strategies over the recorded samples of a finished run, without an engine."""

import asyncio
import importlib.metadata
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa

from experiments.config import NamedStrategy, SearchesConfig, load_yaml, make_strategies
from experiments.data.graders import answers_of
from experiments.replay.engine import RecordedGrader, recorded_session
from experiments.replay.recording import Recording, read_recording
from experiments.replay.rows import ReplayedRows
from orchestrator.core.errors import UserError
from orchestrator.core.protocols import Strategy
from orchestrator.results import CandidateRow, ProblemRow, RowKey
from orchestrator.runner import Job, OnRow, Results, RunInfo, check_distinct, run_jobs


@dataclass(frozen=True, kw_only=True)
class ReplayConfig(SearchesConfig):
    """Which strategies to run over a recording."""

    name: str | None = None  # of the results folder; None: the recorded run's, and `-replay`


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayPlan:
    """A replay that has passed every check."""

    config: ReplayConfig
    folder: Path
    resolved_yaml: str
    source: str  # names the recording in the rows
    recording: Recording
    strategies: tuple[NamedStrategy, ...]

    @property
    def jobs(self) -> list[Job]:
        return [job for named in self.strategies for job in jobs_of(self.recording, named, self.config.seeds)]


def plan_replay(recorded: Path, config_path: Path, overrides: Sequence[str]) -> ReplayPlan:
    """Reads and checks the configuration and the recording. Raises UserError."""
    config, resolved_yaml = load_yaml(config_path, ReplayConfig, overrides)
    recording = read_recording(recorded)
    name = config.name or f"{recorded.resolve().name}-replay"
    plan = ReplayPlan(
        config=config,
        folder=Path(config.results_dir) / name,
        resolved_yaml=f"{resolved_yaml}recorded: {json.dumps(str(recorded))}\n",
        source=recorded.resolve().name,
        recording=recording,
        strategies=tuple(make_strategies(config.strategies)),
    )
    if plan.folder.resolve() == recorded.resolve():
        raise UserError(f"name: got {name}, the recorded run itself; wanted another folder for its replay")
    check_distinct(plan.jobs)
    return plan


def jobs_of(recording: Recording, named: NamedStrategy, seeds: Sequence[int]) -> list[Job]:
    return [
        Job(problem=recorded.problem, strategy_name=named.name, strategy=named.strategy, seed=seed)
        for seed in seeds
        for recorded in recording.problems
    ]


def info_of(recording: Recording, run_id: str) -> RunInfo:
    """What rows say of the run: the recording's models."""
    return RunInfo(
        run_id=run_id,
        policy_model=recording.policy_model,
        verifier_model=recording.verifier_model,
        version=importlib.metadata.version("headrace"),
    )


async def replay(
    recording: Recording,
    jobs: Sequence[Job],
    *,
    results: Results,
    info: RunInfo,
    source: str,
    in_order: bool = False,
    in_flight: int = 32,
    timeout_s: float = 600.0,
    on_row: OnRow = lambda row, candidates: None,
) -> None:
    """Runs the jobs that have no row yet. `source` names the recording in the rows. `in_order`: samples are drawn
    as they were recorded. Raises UserError where a strategy wants what was not recorded."""
    async with answers_of(recording.data) as answers:
        await run_jobs(
            jobs,
            session_of=partial(recorded_session, recording, answers, in_order=in_order),
            grader=RecordedGrader(recording),
            results=ReplayedRows(results, recording, source),
            info=info,
            in_flight=in_flight,
            timeout_s=timeout_s,
            on_row=on_row,
        )


class RowList:
    """Implements `Results` in memory, for benchmarks. Candidates are not kept."""

    def __init__(self) -> None:
        self.rows: list[ProblemRow] = []

    def done_keys(self) -> set[RowKey]:
        return {row.key for row in self.rows}

    def num_candidates(self, key: RowKey) -> int:
        return next(row.num_candidates for row in self.rows if row.key == key)

    def add(self, problem: ProblemRow, candidates: Sequence[CandidateRow], tree: pa.Table | None) -> None:
        self.rows.append(problem)


def replay_rows(recording: Recording, name: str, strategy: Strategy, seeds: Sequence[int]) -> list[ProblemRow]:
    """The rows of one strategy, in memory. Raises UserError also where a single problem failed."""
    results = RowList()
    jobs = jobs_of(recording, NamedStrategy(name=name, strategy=strategy), seeds)
    asyncio.run(replay(recording, jobs, results=results, info=info_of(recording, "replay"), source="recording"))
    for row in results.rows:
        if row.error is not None:
            raise UserError(f"replay: {name}: {row.problem_id}: {row.error}")
    return results.rows

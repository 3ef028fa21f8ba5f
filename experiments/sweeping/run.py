"""Runs the cells of a sweep one after another, on models that stay open from cell to cell, and answers from recorded
samples what needs no own ones. A cell that fails does not end the others."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import pandas as pd

from experiments.config import NamedStrategy, load_data
from experiments.data.datasets import DataConfig, Dataset
from experiments.replay.recording import recording_of
from experiments.replay.run import replay
from experiments.running.models import OpenModels, Wanted
from experiments.running.run import Plan, plan_of, run_on, versions
from experiments.sweeping.cells import Cell, Sweep, read_sweep
from experiments.sweeping.folder import SweepFolder, done_keys, open_cell
from experiments.sweeping.sharing import Key, Search, key_of, search_of, shared_samples
from orchestrator.cluster import connected
from orchestrator.core.errors import HeadraceError, UserError
from orchestrator.core.protocols import SharesWorkload
from orchestrator.pools.record import ray_of
from orchestrator.results import CandidateRow, ProblemRow, ResultsWriter, read_results
from orchestrator.runner import Job


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedCell:
    """A cell that has passed every check that needs no model, and the searches that others' samples answer."""

    cell: Cell
    plan: Plan
    sources: Mapping[Key, Search]  # by what they answer

    def own_jobs(self, probe: int | None = None) -> list[Job]:
        """What the models are needed for. `probe`: of so many problems alone; what all problems share is left out."""
        jobs = [job for job in self.plan.jobs if (job.strategy_name, job.params) not in self.sources]
        if probe is None:
            return jobs
        first = {example.problem.id for example in self.plan.dataset.examples[:probe]}
        return [job for job in jobs if job.problem.id in first and not isinstance(job.strategy, SharesWorkload)]


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepPlan:
    sweep: Sweep
    cells: tuple[PlannedCell, ...]

    @property
    def num_actors(self) -> int:
        return max(planned.plan.num_actors for planned in self.cells)


class Watch(Protocol):
    """Is told how a sweep goes on."""

    def begin(self, cell: str, *, replaying: bool) -> None: ...

    def stage(self, stage: str) -> None: ...

    def row(self, row: ProblemRow, candidates: Sequence[CandidateRow]) -> None: ...

    def note(self, note: str) -> None: ...

    def end(self, cell: str, error: str | None) -> None: ...


def plan_sweep(path: Path, overrides: Sequence[str]) -> SweepPlan:
    """Reads and checks everything that needs no model. Each data set is read once. Raises UserError."""
    sweep = read_sweep(path, overrides)
    shared = shared_samples(sweep.cells)
    load = _loading_once()
    return SweepPlan(sweep=sweep, cells=tuple(_planned(cell, shared, load) for cell in sweep.cells))


def sources_of(cell: Cell, shared: Mapping[Search, Search]) -> dict[Key, Search]:
    """Of the cell's searches that need no samples of their own."""
    searches = [search_of(cell, named) for named in cell.parts.strategies]
    return {search.key: shared[search] for search in searches if search in shared}


def _planned(cell: Cell, shared: Mapping[Search, Search], load: Callable[[DataConfig], Dataset]) -> PlannedCell:
    try:
        plan = plan_of(cell.config, cell.resolved_yaml, cell.parts, load)
    except UserError as error:
        raise UserError(f"sweep: cell {cell.name}: {error}") from None
    return PlannedCell(cell=cell, plan=plan, sources=sources_of(cell, shared))


def _loading_once() -> Callable[[DataConfig], Dataset]:
    loaded: dict[str, Dataset] = {}

    def load(config: DataConfig) -> Dataset:
        key = repr(config)
        if key not in loaded:
            loaded[key] = load_data(config)
        return loaded[key]

    return load


def in_order(cells: Sequence[PlannedCell]) -> list[PlannedCell]:
    """So that each policy is loaded once, and each verifier once beside it: cells without one come last."""
    policies: list[Wanted] = []
    verifiers: list[Any] = []

    def rank(planned: PlannedCell) -> tuple[int, int]:
        wanted = planned.plan.wanted
        policy = next((i for i, seen in enumerate(policies) if seen.same_policy(wanted)), len(policies))
        policies.extend([wanted] * (policy == len(policies)))
        if wanted.verifier not in verifiers:
            verifiers.append(wanted.verifier)
        return policy, len(cells) if wanted.verifier is None else verifiers.index(wanted.verifier)

    return sorted(cells, key=rank)  # stable


@dataclass(slots=True)
class _Run:
    """Owner of what a sweep's run has come to."""

    folder: SweepFolder
    plan: SweepPlan
    watch: Watch
    errors: dict[str, str] = field(default_factory=dict)  # by cell
    broken: list[tuple[Wanted, str]] = field(default_factory=list)  # models that did not start
    num_done: dict[str, int] = field(default_factory=dict)  # searches, by cell

    def end(self, planned: PlannedCell, error: str | None) -> None:
        if error is not None:
            self.errors[planned.cell.name] = error
        self.count(planned)
        self.watch.end(planned.cell.name, error)
        self.write_manifest()

    def count(self, planned: PlannedCell) -> None:
        jobs = planned.plan.jobs
        self.num_done[planned.cell.name] = len(jobs) - len(left_of(planned, jobs))

    def write_manifest(self) -> None:
        self.folder.write_manifest([self._entry(planned) for planned in self.plan.cells])

    def _entry(self, planned: PlannedCell) -> dict[str, Any]:
        cell = planned.cell
        searches = [search_of(cell, named) for named in cell.parts.strategies]
        replayed = {one.label: planned.sources.get(one.key) for one in searches}
        return {
            "name": cell.name,
            "choices": list(cell.choices),
            "searches": len(planned.plan.jobs),
            "done": self.num_done[cell.name],
            "replayed": {label: source.source for label, source in replayed.items() if source is not None},
            "error": self.errors.get(cell.name),
        }


async def run_sweep(plan: SweepPlan, folder: SweepFolder, watch: Watch, *, probe: int | None = None) -> dict[str, str]:
    """Runs what has no row yet. The errors of the cells that failed, by name. Leaves nothing running, also when
    cancelled. `probe`: of the first so many problems of each cell alone, and nothing is replayed."""
    run = _Run(folder, plan, watch)
    for planned in plan.cells:
        run.count(planned)
    run.write_manifest()
    left = [planned for planned in in_order(plan.cells) if left_of(planned, planned.own_jobs(probe))]
    if left:
        first = left[0].cell.config  # `ray` and `pool` are the same for all
        with connected(ray_of(first.pool, first.ray), plan.num_actors):
            async with OpenModels() as models:
                for planned in left:
                    await _run_cell(run, planned, models, probe)
    if probe is None:
        for planned in plan.cells:
            if planned.sources and planned.cell.name not in run.errors and left_of(planned, planned.plan.jobs):
                await _answer_cell(run, planned)
    return run.errors


def left_of(planned: PlannedCell, jobs: Sequence[Job]) -> list[Job]:
    """Those that have no row yet."""
    done = done_keys(planned.cell)
    return [job for job in jobs if job.key not in done]


async def _run_cell(run: _Run, planned: PlannedCell, models: OpenModels, probe: int | None) -> None:
    watch, wanted, error = run.watch, planned.plan.wanted, None
    watch.begin(planned.cell.name, replaying=False)
    try:
        for seen, why in run.broken:
            if seen == wanted:
                raise UserError(why)
        with open_cell(planned.cell, versions()) as results:
            try:
                opened = await models.fit(wanted, watch.stage)
            except HeadraceError as failed:
                run.broken.append((wanted, str(failed)))
                raise
            await run_on(
                opened,
                planned.plan,
                results,
                planned.own_jobs(probe),
                on_stage=watch.stage,
                on_row=watch.row,
                on_note=watch.note,
            )
    except HeadraceError as failed:
        error = str(failed)
        await models.close()  # they may be what failed
    run.end(planned, error)


async def _answer_cell(run: _Run, planned: PlannedCell) -> None:
    run.watch.begin(planned.cell.name, replaying=True)
    error, folders = None, {one.cell.name: one.cell.folder for one in run.plan.cells}
    read = cache(read_results)  # n=4 and n=8 are answered from the same rows
    try:
        with open_cell(planned.cell, versions()) as results:
            for named in planned.plan.strategies:
                if source := planned.sources.get(key_of(named)):
                    folder = folders[source.cell]
                    await _answer(planned, named, source, folder, read(folder), results, run.watch)
            if missing := len(planned.plan.jobs) - len(results.done_keys()):
                run.watch.note(f"{missing} searches have no row: the samples for them failed; --resume tries again")
    except HeadraceError as failed:
        error = str(failed)
    run.end(planned, error)


async def _answer(
    planned: PlannedCell,
    named: NamedStrategy,
    source: Search,
    folder: Path,
    recorded_rows: tuple[pd.DataFrame, pd.DataFrame],
    results: ResultsWriter,
    watch: Watch,
) -> None:
    """From the samples of the same seed, in their order. Where a problem's samples failed, it gets no row."""
    problems, candidates = recorded_rows
    for seed in planned.plan.config.seeds:
        rows, samples = (
            frame[(frame["strategy"] == source.strategy) & (frame["params"] == source.params) & (frame["seed"] == seed)]
            for frame in (problems, candidates)
        )
        if not (rows["status"] == "ok").any():
            continue
        recording = recording_of(folder, rows, samples)
        wanted = {example.problem.id for example in planned.plan.dataset.examples}
        jobs = [
            Job(problem=recorded.problem, strategy_name=named.name, strategy=named.strategy, seed=seed)
            for recorded in recording.problems
            if recorded.problem.id in wanted
        ]
        await replay(
            recording,
            jobs,
            results=results,
            info=planned.plan.info,
            source=source.source,
            in_order=True,
            in_flight=planned.plan.config.problems_in_flight,
            timeout_s=planned.plan.config.problem_timeout_s,
            on_row=watch.row,
        )

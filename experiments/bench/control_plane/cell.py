"""One cell of the bench: so many drivers over so many replicas, which search a fixed number of steps."""

import time
import uuid
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from experiments.bench.control_plane.engine import Writing, null_policy, null_prompt
from experiments.bench.control_plane.pool import SharedSpec, processes_on_nodes
from experiments.bench.control_plane.usage import Usage, memory_bytes, usage
from experiments.bench.control_plane.verifier import Reading, null_verifier
from experiments.data.graders import Grader
from experiments.running.run import versions
from orchestrator.core.account import Account
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.config import StepConfig
from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Problem, Selection
from orchestrator.core.protocols import Sampling, Strategy
from orchestrator.drivers.driver import DriverSetup
from orchestrator.drivers.drivers import Drivers
from orchestrator.policy.open import POLICY_PART
from orchestrator.policy.opened import OpenPolicy
from orchestrator.pools.open import open_pools
from orchestrator.pools.service import own_pool, pool_actor
from orchestrator.results import ResultsWriter
from orchestrator.runner import Job, RunInfo, hand_out
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN

BEAM = BeamSearch(n=16, beam_width=4)
STRATEGIES: dict[str, Strategy] = {"beam_search": BEAM, "best_of_n": BestOfN(n=16)}
REPLICAS_PER_VERIFIER = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    drivers: int
    replicas: int  # of the policy

    @property
    def verifiers(self) -> int:
        """Replicas of the verifier."""
        return max(1, self.replicas // REPLICAS_PER_VERIFIER)

    def __str__(self) -> str:
        return f"{self.drivers} drivers, {self.replicas} replicas"


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What each cell is given to do."""

    writing: Writing = field(default_factory=lambda: Writing(tokens_per_s=100.0))
    reading: Reading = field(default_factory=Reading)
    problems: int = 24  # of each strategy
    in_flight: int = 24
    processes: int = 4  # that hold the replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Spent:
    """What one strategy took in a cell."""

    steps: int
    rows: int
    seconds: float
    usage: Usage
    calls: dict[str, int]  # that reached replicas, by method


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRun:
    """What a cell took once."""

    spent: dict[str, Spent]  # by strategy
    members_bytes: int  # of the list of the policy's members, as the keeper sends it
    members_s: float  # for a driver that asks for it
    memory_bytes: dict[str, float]  # of a process, by role


async def run_cell(cell: Cell, load: Load, seed: int) -> CellRun:
    """On a pool and drivers that are started for this. Ray must be connected."""
    policy = null_policy(load.writing, replicas=cell.replicas)
    verifier = null_verifier(load.reading, replicas=cell.verifiers)
    async with AsyncExitStack() as stack:
        processes = await stack.enter_async_context(processes_on_nodes(load.processes))
        spec = SharedSpec(
            name=uuid.uuid4().hex, policy=policy, steps=StepConfig(), verifier=verifier, processes=tuple(processes)
        )
        await stack.enter_async_context(own_pool(spec))
        writing, _ = await open_pools(stack, policy=policy, steps=spec.steps, verifier=verifier, pool=spec.name)
        setup = _setup(spec, load)
        account = Account(Budget())
        drivers = await stack.enter_async_context(Drivers.open(setup, num=cell.drivers, account=account))
        results = stack.enter_context(_results(stack.enter_context(TemporaryDirectory())))
        spent = {}
        for name, strategy in STRATEGIES.items():
            jobs = _jobs(name, strategy, load.problems, seed)
            spent[name] = await _spent(jobs, load, drivers, results, writing, list(processes.values()))
        members_bytes, members_s = await _members(spec)
        return CellRun(spent=spent, members_bytes=members_bytes, members_s=members_s, memory_bytes=memory_bytes())


async def _spent(
    jobs: Sequence[Job],
    load: Load,
    drivers: Drivers,
    results: ResultsWriter,
    policy: OpenPolicy,
    processes: Sequence[Any],
) -> Spent:
    calls, steps = await _calls(processes), await _steps(policy)
    before, began = usage(), time.monotonic()
    await hand_out(jobs, drivers.solve, results=results, in_flight=load.in_flight, on_row=lambda row, candidates: None)
    seconds, used = time.monotonic() - began, usage().since(before)
    after = await _calls(processes)
    return Spent(
        steps=await _steps(policy) - steps,
        rows=len(jobs),
        seconds=seconds,
        usage=used,
        calls={method: count - calls.get(method, 0) for method, count in after.items()},
    )


def _jobs(name: str, strategy: Strategy, num: int, seed: int) -> list[Job]:
    return [
        Job(
            problem=Problem.from_prompt(f"null-{index}", null_prompt(index)),
            strategy_name=name,
            strategy=strategy,
            seed=seed,
        )
        for index in range(num)
    ]


def _setup(spec: SharedSpec, load: Load) -> DriverSetup:
    most_tokens = 2 * load.writing.step_tokens * load.writing.solution_steps
    return DriverSetup(
        pool=spec.name,
        policy=spec.policy,
        steps=spec.steps,
        verifier=spec.verifier,
        sampling=Sampling(max_tokens=most_tokens),
        budget=Budget(),
        run_budget=Budget(),
        speculation=0,
        selection=Selection.SCORE,
        answers=("exact", AnswerFormat.parse(None)),
        grader_of=partial(Grader, {f"null-{index}": "0" for index in range(load.problems)}),
        info=RunInfo(run_id="bench", policy_model="null", verifier_model="null", version="0"),
        timeout_s=600.0,
    )


def _results(folder: str) -> ResultsWriter:
    return ResultsWriter.open(Path(folder) / "run", run_yaml="name: bench\n", versions=versions())


async def _calls(processes: Sequence[Any]) -> dict[str, int]:
    """That have reached the replicas, by method."""
    total: dict[str, int] = {}
    for process in processes:
        for method, count in (await process.calls.remote()).items():
            total[method] = total.get(method, 0) + count
    return total


async def _members(spec: SharedSpec) -> tuple[int, float]:
    """Bytes and seconds of one copy of the list."""
    from ray import cloudpickle

    began = time.monotonic()
    keeper: Any = pool_actor(spec.name)
    members = await keeper.after.remote(POLICY_PART, -1, 0.0)
    seconds = time.monotonic() - began
    return len(cloudpickle.dumps(members)), seconds


async def _steps(policy: OpenPolicy) -> int:
    """That the engines have written."""
    return sum(stats["steps"] for stats in await policy.stats())

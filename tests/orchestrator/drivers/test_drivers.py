"""Facts about the drivers of a run, on real Ray actors: a policy over a scripted server, so that no engine must load,
and a rule as verifier."""

import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from experiments.data.graders import Grader
from orchestrator.answers import open_answers
from orchestrator.core.account import Account
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.config import PolicyConfig, StepConfig, VerifierConfig
from orchestrator.core.errors import PoolExhausted, UserError
from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import Problem, Selection
from orchestrator.core.protocols import Sampling, Strategy
from orchestrator.drivers.driver import DriverSetup
from orchestrator.drivers.drivers import Drivers
from orchestrator.pools.open import open_pools
from orchestrator.pools.service import own_pool, pool_actor
from orchestrator.pools.spec import PoolSpec
from orchestrator.ray_calls import named_actors
from orchestrator.replicas.blueprint import NAMESPACE
from orchestrator.results import CandidateRow, ProblemRow, RowKey
from orchestrator.runner import Job, RunInfo, SolveJob, hand_out, solve_job
from orchestrator.search import SearchRuntime
from orchestrator.verifier.resolve import resolve
from strategies.best_of_n import BestOfN
from strategies.greedy import Greedy
from strategies.workload_budget import WorkloadBudget
from tests.orchestrator.policy.engines.scripted_server import ScriptedServer, scripted_server

MODEL = str(Path(__file__).parents[3] / "experiments" / "tinymath" / "models" / "policy")
TOKENIZER = AutoTokenizer.from_pretrained(MODEL)
TEXT = "3 + 4 = 7\n\n7 + 1 = 8\n\nAnswer: 8"
PROBLEMS = [Problem.from_prompt(f"p{number}", f"Box with {number} pens") for number in range(8)]
VARIES = {"run_id", "started_at", "finished_at", "wall_s", "queue_s", "engine_s", "verifier_s", "peak_state_bytes"}
ANSWERS = AnswerFormat.parse(None)
pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(300)]


class Rows:
    """Implements `Results`."""

    def __init__(self) -> None:
        self.rows: dict[RowKey, tuple[ProblemRow, Sequence[CandidateRow]]] = {}

    def done_keys(self) -> set[RowKey]:
        return set()

    def num_candidates(self, key: RowKey) -> int:
        return self.rows[key][0].num_candidates

    def add(self, problem: ProblemRow, candidates: Sequence[CandidateRow], tree: object) -> None:
        assert problem.key not in self.rows, "a row that comes back twice"
        self.rows[problem.key] = (problem, candidates)

    @property
    def lasting(self) -> dict[RowKey, Any]:
        """Of each row what a repeated run has again."""
        return {key: (_lasting(problem), list(map(_lasting, c))) for key, (problem, c) in self.rows.items()}


def _lasting(row: ProblemRow | CandidateRow) -> dict[str, Any]:
    return {field.name: getattr(row, field.name) for field in fields(row) if field.name not in VARIES}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with scripted_server(TOKENIZER, TEXT) as scripted:
        yield scripted


@pytest.fixture
async def setup(server: ScriptedServer) -> AsyncIterator[DriverSetup]:
    """Of drivers on a pool that is up."""
    policy = PolicyConfig(engine="openai", model="m", urls=[server.url], tokenizer=MODEL, max_restarts=5)
    verifier = resolve(VerifierConfig(name="regex", options={"pattern": "Answer: 8"}))
    spec = PoolSpec(name="drivers", policy=policy, steps=StepConfig(), verifier=verifier)
    async with own_pool(spec):
        yield DriverSetup(
            pool=spec.name,
            policy=policy,
            steps=spec.steps,
            verifier=verifier,
            sampling=Sampling(max_tokens=100),
            budget=Budget(),
            run_budget=Budget(),
            speculation=0,
            selection=Selection.SCORE,
            answers=("exact", ANSWERS),
            grader_of=partial(Grader, {problem.id: "8" for problem in PROBLEMS}),
            info=RunInfo(run_id="r", policy_model="m", verifier_model=None, version="0"),
            timeout_s=60.0,
        )
    assert pool_actor("drivers") is None and named_actors(NAMESPACE) == []


def jobs(*strategies: Strategy) -> list[Job]:
    return [
        Job(problem=problem, strategy_name=type(strategy).__name__, strategy=strategy, seed=seed)
        for seed in (0, 1)
        for strategy in strategies
        for problem in PROBLEMS
    ]


async def rows_of(solve: SolveJob, todo: Sequence[Job], on_row: Any = lambda row, candidates: None) -> Rows:
    rows = Rows()
    await hand_out(todo, solve, results=rows, in_flight=6, on_row=on_row)
    return rows


async def alone(setup: DriverSetup, todo: Sequence[Job]) -> Rows:
    """In this process, as with one driver."""
    async with AsyncExitStack() as stack:
        policy, verifier = await open_pools(
            stack, policy=setup.policy, steps=setup.steps, verifier=setup.verifier, pool=setup.pool
        )
        answers = await stack.enter_async_context(open_answers(*setup.answers))
        runtime = SearchRuntime(policy=policy, verifier=verifier, answers=answers, sampling=setup.sampling)
        grader = setup.grader_of(answers)
        solve = partial(solve_job, session_of=runtime.session, grader=grader, info=setup.info, timeout_s=60.0)
        return await rows_of(solve, todo)


class Killer:
    """Kills the busiest driver when the first row comes back."""

    def __init__(self, drivers: Drivers) -> None:
        self._drivers = drivers
        self.killed: int | None = None  # its place

    def __call__(self, row: ProblemRow, candidates: Sequence[CandidateRow]) -> None:
        if self.killed is None:
            [(self.killed, in_flight)] = self._drivers._num_solving.most_common(1)
            assert in_flight > 0, "nothing would be lost"
            [pid] = [one.pid for one in self._drivers._keeper.current.serving if one.index == self.killed]
            os.kill(pid, signal.SIGKILL)


async def test_the_rows_of_many_drivers_are_those_of_one_also_when_a_driver_dies(setup: DriverSetup) -> None:
    todo = jobs(BestOfN(n=3), Greedy())
    wanted = (await alone(setup, todo)).lasting
    assert len(wanted) == len(todo) and all(row["correct"] for row, _ in wanted.values())
    async with Drivers.open(setup, num=3, account=Account(Budget())) as drivers:
        assert (await rows_of(drivers.solve, todo)).lasting == wanted
        killer = Killer(drivers)
        assert (await rows_of(drivers.solve, todo, killer)).lasting == wanted
        assert killer.killed is not None


@pytest.mark.engines
async def test_a_budget_of_the_run_is_spent_to_the_last_candidate_and_never_exceeded(setup: DriverSetup) -> None:
    budget = Budget(candidates=31, policy_tokens=100_000)
    account = Account(budget)
    async with Drivers.open(replace(setup, run_budget=budget), num=3, account=account) as drivers:
        rows = (await rows_of(drivers.solve, jobs(BestOfN(n=3)))).rows.values()
    assert sum(row.num_candidates for row, _ in rows) == 31
    assert {row.end_reason for row, _ in rows} == {"completed", "budget"}
    assert account.left("candidates") == 0


@pytest.mark.engines
async def test_samples_that_searches_share_are_granted_once_also_when_a_driver_dies(setup: DriverSetup) -> None:
    strategy = WorkloadBudget(n=4, samples_per_problem=2, probe=1, round=1)
    async with Drivers.open(setup, num=2, account=Account(Budget())) as drivers:
        rows = (await rows_of(drivers.solve, jobs(strategy), Killer(drivers))).rows.values()
    for seed in (0, 1):
        counts = [row.num_candidates for row, _ in rows if row.seed == seed]
        assert len(counts) == len(PROBLEMS) and sum(counts) <= 2 * len(PROBLEMS) and min(counts) >= 1


@pytest.mark.engines
async def test_where_no_driver_is_left_the_run_ends_and_says_why(
    setup: DriverSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("orchestrator.drivers.drivers._MAX_RESTARTS", 0)
    async with Drivers.open(setup, num=1, account=Account(Budget())) as drivers:
        with pytest.raises(PoolExhausted, match="driver: none of 1 replicas is left"):
            await rows_of(drivers.solve, jobs(Greedy()), Killer(drivers))


@pytest.mark.engines
async def test_a_driver_that_can_not_begin_says_why(setup: DriverSetup) -> None:
    other = replace(setup, policy=replace(setup.policy, system_prompt="Be brief."))
    with pytest.raises(UserError, match=r"policy\.system_prompt"):
        async with Drivers.open(other, num=2, account=Account(Budget())):
            pass

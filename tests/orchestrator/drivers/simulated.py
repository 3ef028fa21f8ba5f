"""A run over many drivers in one event loop with a controlled clock: the real command's side, drivers, leases, sessions
and strategies. The drivers' processes are made up, and so is what their searches run on."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from orchestrator.core.account import Account
from orchestrator.core.answers import AnswerFormat
from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.core.errors import PoolExhausted, ReplicaError
from orchestrator.core.ledger import Budget, Remaining
from orchestrator.core.nouns import Comparison, Problem, Selection
from orchestrator.core.protocols import Answers, Generation, Sampling, Strategy
from orchestrator.drivers import driver as drivers
from orchestrator.drivers.driver import Driver, DriverSetup
from orchestrator.drivers.drivers import Drivers
from orchestrator.replicas import blueprint as blueprints
from orchestrator.replicas import keeper as keepers
from orchestrator.results import CandidateRow, ProblemRow, RowKey
from orchestrator.runner import Job, RunInfo, hand_out, solve_job
from orchestrator.search import SearchRuntime
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN
from strategies.workload_budget import WorkloadBudget
from tests.fakes import ANSWERS, CoinPolicy, ScriptedStream, TableVerifier
from tests.orchestrator.replicas.processes import Process

STEP_S = 2.0  # for a step of a search's sequences
LOAD_S = 20.0
TIMEOUT_S = 400.0  # of a search
IN_FLIGHT = 5
SAMPLES_PER_PROBLEM = 2
PROBLEMS = [Problem.from_prompt(f"p{number}", "Q:") for number in range(6)]
STRATEGIES: list[Strategy] = [
    BestOfN(n=3),
    BeamSearch(n=4, beam_width=2, max_steps=4),
    WorkloadBudget(n=4, samples_per_problem=SAMPLES_PER_PROBLEM, probe=1, round=1),
]
JOBS = [
    Job(problem=problem, strategy_name=type(strategy).__name__, strategy=strategy, seed=0)
    for strategy in STRATEGIES
    for problem in PROBLEMS
]


class TablesGrader:
    async def grade(self, problem: Problem, answers: Sequence[str | None]) -> list[Comparison]:
        return [Comparison(equal=answer == "a") for answer in answers]


class SlowPolicy(CoinPolicy):
    """Takes its time for each step. Hangs while `open` is cleared."""

    def __init__(self) -> None:
        super().__init__()
        self.open = asyncio.Event()
        self.open.set()

    def _continuation(self, text: str, request: Generation) -> str:
        drawn = super()._continuation(text, request)
        return f"{drawn}Answer: {(text + drawn).rstrip()[-1]}"

    def generate(self, requests: Sequence[Generation]) -> ScriptedStream:
        self.requests += requests
        return SlowStream(self, [self._plan(request) for request in requests])


class SlowStream(ScriptedStream):
    policy: SlowPolicy

    async def __anext__(self) -> Any:
        await asyncio.sleep(STEP_S)
        await self.policy.open.wait()
        return await super().__anext__()


def verifier() -> TableVerifier:
    return TableVerifier(lambda text: len(text) % 7 / 7)


class DriverProcess(Process):
    """The actor of a driver. Tells what its searches really spent."""

    def __init__(self, run: "Run", setup: DriverSetup) -> None:
        super().__init__()
        self._run = run
        self.life = Driver(setup)
        self.policy = SlowPolicy()
        self.solving: set[int] = set()  # the command's numbers of jobs
        self.spent: Counter[str] = Counter()
        self.loaded = False

    def method(self, name: str) -> Callable[..., Any]:
        own: dict[str, Any] = {"begin": self._begin, "load": self._load, "solve": self._solve}
        return own.get(name) or getattr(self.life, name)  # type: ignore[no-any-return]

    def _begin(self) -> tuple[int, str]:
        return id(self), "here"

    async def _load(self) -> None:
        await asyncio.sleep(LOAD_S)
        self._run.loading = self
        await self.life.load()
        account = self.life._account
        move = account._move

        def counted(kind: str, held: float, spent: float) -> None:
            self.spent[kind] += spent  # type: ignore[assignment]
            move(kind, held, spent)

        account._move = counted  # type: ignore[method-assign]
        self.loaded = True

    async def _solve(self, job: Job, number: int, remaining: Remaining, *, shares: bool) -> Any:
        assert number not in self.solving
        self.solving.add(number)
        try:
            return await self.life.solve(job, number, remaining, shares=shares)
        finally:
            self.solving.discard(number)

    async def end(self) -> None:
        await super().end()
        tasks = [self.life._hosting] if self.life._hosting is not None else []
        if self.loaded:
            tasks += self.life._account._taking  # type: ignore[arg-type]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Run:
    """A command and its drivers. Implements `Results`. Owner of all processes."""

    def __init__(self, *, num: int, budget: Budget, forgets_s: float) -> None:
        """`forgets_s`: after which a loss is forgotten."""
        self.budget = budget
        self.rows: dict[RowKey, tuple[ProblemRow, list[CandidateRow]]] = {}
        self.processes: list[DriverProcess] = []
        self.loading: DriverProcess | None = None
        self.no_pool = False  # for a driver that loads
        self.drivers: Drivers | None = None  # while they are open
        self.failure: PoolExhausted | None = None  # what ended the run
        self.account = Account(budget)
        self.finished = asyncio.Event()
        self.close = asyncio.Event()
        now = asyncio.get_running_loop().time
        self._patches = pytest.MonkeyPatch()
        for module, name, stand_in in (
            (keepers, "_FORGETS_S", forgets_s),
            (keepers, "time", SimpleNamespace(time_ns=lambda: 10**18 + int(now() * 10**9))),
            (blueprints, "create_actor", self._create),
            (blueprints, "kill_actor", lambda process: process.dead.set()),
            (blueprints, "free_resources", dict),
            (drivers, "open_pools", self._open_pools),
            (drivers, "open_answers", _open_answers),
        ):
            self._patches.setattr(module, name, stand_in)
        self.life = asyncio.ensure_future(self._live(num))

    async def _live(self, num: int) -> None:
        try:
            async with Drivers.open(_setup(self.budget), num=num, account=self.account) as self.drivers:
                await hand_out(JOBS, self.drivers.solve, results=self, in_flight=IN_FLIGHT, on_row=_ignore)
                self.finished.set()
                await self.close.wait()
        except PoolExhausted as error:
            self.failure = error
        finally:
            self.finished.set()
            self.drivers = None

    def _create(self, cls: type, setup: DriverSetup, **options: Any) -> DriverProcess:
        self.processes.append(DriverProcess(self, setup))
        return self.processes[-1]

    async def _open_pools(self, stack: AsyncExitStack, **_: Any) -> tuple[SlowPolicy, TableVerifier]:
        if self.no_pool:
            raise ReplicaError("pool simulated: its keeper is gone")
        assert self.loading is not None
        return self.loading.policy, verifier()

    @property
    def alive(self) -> list[DriverProcess]:
        return [process for process in self.processes if not process.dead.is_set()]

    async def end(self) -> None:
        try:
            self.close.set()
            self.life.cancel()
            await asyncio.gather(self.life, return_exceptions=True)
            for process in self.processes:
                await process.end()
        finally:
            self._patches.undo()

    # Results

    def done_keys(self) -> set[RowKey]:
        return set()

    def num_candidates(self, key: RowKey) -> int:
        return self.rows[key][0].num_candidates

    def add(self, problem: ProblemRow, candidates: Sequence[CandidateRow], tree: object) -> None:
        key = (problem.problem_id, problem.strategy, problem.params, problem.seed)
        assert key not in self.rows, "a row came twice"
        self.rows[key] = problem, list(candidates)

    # what must hold at any time

    def check(self) -> None:
        if self.life.done():
            self.life.result()
        solving = Counter(number for process in self.alive for number in process.solving)
        assert not solving or max(solving.values()) == 1, "two drivers solve one job"
        for kind in self.account.counted:
            left = self.account.left(kind)
            assert left is not None and left >= 0, "the run's budget is exceeded"

    @property
    def is_settled(self) -> bool:
        """Whether nothing of the run's budget is promised to anybody, and all that is spent is counted."""
        living = [process.life._account for process in self.alive if process.loaded]
        promised = [self.account._held, *(counts for one in living for counts in (one._spent, one._held, one._leased))]
        return all(abs(amount) < _ROUNDING for counts in promised for amount in counts.values())

    @property
    def spent(self) -> dict[str, float]:
        """By all processes, also those that died: as they know it."""
        return {kind: sum(process.spent[kind] for process in self.processes) for kind in self.account.counted}


async def rows_alone() -> dict[RowKey, list[tuple[int, ...]]]:
    """The tokens of each candidate, as one undisturbed driver has them; those of a shared workload left out."""
    runtime = SearchRuntime(policy=SlowPolicy(), verifier=verifier(), answers=ANSWERS, sampling=_SAMPLING)
    found = {}
    for job in JOBS:
        if not isinstance(job.strategy, WorkloadBudget):
            _, candidates, _ = await solve_job(
                job, None, session_of=runtime.session, grader=TablesGrader(), info=_INFO, timeout_s=TIMEOUT_S
            )
            found[job.key] = [candidate.token_ids for candidate in candidates]
    return found


_ROUNDING = 1e-6  # FLOPs are sums of floats
_SAMPLING = Sampling(max_tokens=40)
_INFO = RunInfo(run_id="r", policy_model="m", verifier_model=None, version="0")


def _setup(budget: Budget) -> DriverSetup:
    return DriverSetup(
        pool="simulated",
        policy=PolicyConfig(model="m"),
        steps=StepConfig(),
        verifier=None,
        sampling=_SAMPLING,
        budget=Budget(),
        run_budget=budget,
        speculation=0,
        selection=Selection.SCORE,
        answers=("exact", AnswerFormat.parse(None)),
        grader_of=lambda answers: TablesGrader(),
        info=_INFO,
        timeout_s=TIMEOUT_S,
    )


@asynccontextmanager
async def _open_answers(kind: str, format: AnswerFormat) -> AsyncIterator[Answers]:
    yield ANSWERS


def _ignore(row: ProblemRow, candidates: Sequence[CandidateRow]) -> None:
    pass

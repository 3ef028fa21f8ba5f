"""The boundary between sessions and what runs them, over a scripted policy."""

import asyncio
from dataclasses import dataclass

import pytest

from orchestrator.core.errors import LateError, PoolExhausted, ProblemError, UserError
from orchestrator.core.ledger import Budget
from orchestrator.core.nouns import EndReason, Problem, SearchResult
from orchestrator.core.protocols import Sampling, Session
from orchestrator.search import SearchRuntime, for_each, for_each_problem, solve, told
from strategies.greedy import Greedy
from strategies.self_consistency import SelfConsistency
from tests.fakes import ANSWERS, ScriptedPolicy, open_session, problem


@dataclass(frozen=True)
class Failing:
    error: BaseException

    async def search(self, problem: Problem, session: Session) -> SearchResult:
        raise self.error


@dataclass(frozen=True)
class Endless:
    async def search(self, problem: Problem, session: Session) -> SearchResult:
        await asyncio.Event().wait()
        raise AssertionError


def policy() -> ScriptedPolicy:
    return ScriptedPolicy({"Q:": ["Answer: 1"]})


async def test_equal_seeds_are_equal_draws_and_each_session_has_the_runtimes_limits() -> None:
    writer = policy()
    runtime = SearchRuntime(
        policy=writer, verifier=None, answers=ANSWERS, sampling=Sampling(max_tokens=4), budget=Budget(policy_tokens=3)
    )
    for seed in (7, 7, 8):
        outcome = await solve(problem(), Greedy().search, runtime.session(seed), timeout_s=10)
        assert outcome.result is not None and outcome.result.end_reason is EndReason.BUDGET
        assert outcome.result.candidates[0].trajectory.num_tokens == 3
    first, again, other = [request.seed for request in writer.requests]
    assert first == again != other


async def test_a_search_that_no_budget_cut_is_completed() -> None:
    outcome = await solve(problem(), SelfConsistency(n=2).search, open_session(policy()), timeout_s=10)
    assert outcome.error is None and outcome.result is not None
    assert (outcome.result.end_reason, outcome.result.answer) == (EndReason.COMPLETED, "1")
    assert outcome.result.ledger.generated_tokens == 2 * len("Answer: 1.")


@pytest.mark.parametrize(
    ("strategy", "words"),
    [
        (Endless(), "no answer after 0.01 s"),
        (Failing(ValueError("bad luck")), "ValueError: bad luck"),
        (Failing(TimeoutError("another's")), "TimeoutError: another's"),
        (Failing(ProblemError("a riddle")), "ProblemError: a riddle"),
    ],
)
async def test_what_goes_wrong_with_one_problem_is_its_outcome(strategy: Failing | Endless, words: str) -> None:
    outcome = await solve(problem(), strategy.search, open_session(policy()), timeout_s=0.01)
    assert outcome.result is None and outcome.error is not None
    assert told(outcome.error) == words


@pytest.mark.parametrize("error", [UserError("wrong"), PoolExhausted("gone")])
async def test_what_concerns_every_problem_is_raised(error: Exception) -> None:
    with pytest.raises(type(error)):
        await solve(problem(), Failing(error).search, open_session(policy()), timeout_s=10)


async def test_the_first_error_ends_all_that_is_in_flight() -> None:
    ended = []

    async def work(item: int) -> None:
        try:
            if item == 1:
                raise UserError("wrong")
            await asyncio.Event().wait()
        finally:
            ended.append(item)

    with pytest.raises(UserError, match="wrong"):
        await for_each(range(10), work, in_flight=3)
    assert sorted(ended) == [0, 1, 2]


async def test_a_problem_that_fails_is_reported_and_the_others_go_on() -> None:
    told_of: list[str | None] = []

    async def work(problem: Problem) -> None:
        if problem.id == "slow":
            await asyncio.Event().wait()
        if problem.id == "bad":
            raise KeyError("x")

    problems = [Problem.from_prompt(id, "Q:") for id in ("slow", "bad", "good")]
    failed = await for_each_problem(problems, work, in_flight=2, timeout_s=0.05, on_problem=told_of.append)
    assert failed == {"slow": "not done in 0.05 s", "bad": "KeyError: 'x'"}
    assert sorted(told_of, key=str) == ["KeyError: 'x'", None, "not done in 0.05 s"]
    assert told(LateError("late")) == "late"

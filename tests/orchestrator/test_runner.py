import asyncio
from dataclasses import dataclass

import pytest

from orchestrator.core.errors import PoolExhausted
from orchestrator.core.nouns import Problem
from orchestrator.results import ResultsWriter, read_results
from orchestrator.runner import Job, RunInfo, run_jobs, strategy_label
from strategies.beam_search import BeamSearch
from strategies.best_of_n import BestOfN
from strategies.greedy import Greedy
from tests.fakes import ScriptedPolicy, TableVerifier, open_session

INFO = RunInfo(run_id="r", policy_model="scripted", verifier_model=None, version="0")
SCRIPT = {"Q:": ["Answer: 1"], "hard:": ["Answer: 7"]}


class TableGrader:
    async def grade(self, problem, answers):
        return [answer == "1" for answer in answers]


@dataclass(frozen=True)
class Failing:
    """Fails on the problems named, and does something else on the others."""

    message: str = "bad luck"
    fatal: bool = False
    bad: str = "b"

    async def search(self, problem, session):
        if problem.id == self.bad:
            await session.rollout([await session.start(problem)], scored=False)
            raise PoolExhausted(self.message) if self.fatal else ValueError(self.message)
        return await Greedy().search(problem, session)


@dataclass(frozen=True)
class Endless:
    async def search(self, problem, session):
        await asyncio.Event().wait()


def jobs(strategy, name="greedy", ids="abc"):
    problems = [Problem.from_prompt(id, "Q:", difficulty=2.0) for id in ids]
    return [Job(problem=problem, strategy_name=name, strategy=strategy, seed=0) for problem in problems]


async def run(folder, todo, *, resume=False, session=None, timeout_s=60.0, in_flight=2, on_row=lambda row: None):
    policy = ScriptedPolicy(SCRIPT)
    with ResultsWriter.open(folder, run_yaml="name: r\n", versions={}, resume=resume) as results:
        await run_jobs(
            todo,
            open_session=session or (lambda seed: open_session(policy, TableVerifier(lambda text: 0.5))),
            grader=TableGrader(),
            results=results,
            info=INFO,
            in_flight=in_flight,
            timeout_s=timeout_s,
            on_row=on_row,
        )
    return policy


async def test_every_job_becomes_a_row_with_its_ledger_and_candidates(tmp_path):
    await run(tmp_path / "r", jobs(BestOfN(n=3), "best_of_n"))
    problems, candidates = read_results(tmp_path / "r")
    assert sorted(problems.problem_id) == ["a", "b", "c"]
    assert set(problems.correct) == {True}
    assert set(problems.generated_tokens) == {3 * len("Answer: 1.")}
    assert (candidates.groupby("problem_id").size() == 3).all()
    assert candidates.chosen.sum() == 3
    assert problems.generated_tokens.sum() == candidates.generated_tokens.sum()


async def test_a_problem_that_fails_is_a_row_with_its_error_and_what_it_cost(tmp_path):
    await run(tmp_path / "r", jobs(Failing(), "failing"))
    problems, _ = read_results(tmp_path / "r")
    rows = problems.set_index("problem_id")
    assert rows.status.to_dict() == {"a": "ok", "b": "error", "c": "ok"}
    assert rows.error["b"] == "ValueError: bad luck"
    assert rows.generated_tokens["b"] > 0
    assert rows.correct.isna()["b"]


async def test_a_problem_over_its_time_is_a_row_that_says_so(tmp_path):
    await run(tmp_path / "r", jobs(Endless(), "endless", ids="a"), timeout_s=0.01)
    problems, _ = read_results(tmp_path / "r")
    assert problems.error.tolist() == ["no answer after 0.01 s"]


async def test_a_pool_with_no_replica_left_ends_the_run_and_keeps_what_was_finished(tmp_path):
    with pytest.raises(PoolExhausted):
        await run(tmp_path / "r", jobs(Failing(fatal=True, bad="c"), "failing"), in_flight=1)
    problems, _ = read_results(tmp_path / "r")
    assert sorted(problems.problem_id) == ["a", "b"]


async def test_resuming_runs_only_what_has_no_good_row(tmp_path):
    await run(tmp_path / "r", jobs(Failing(), "failing"))
    rows = []
    await run(tmp_path / "r", jobs(Failing(), "failing"), resume=True, on_row=rows.append)
    assert [row.problem_id for row in rows] == ["b"]
    problems, _ = read_results(tmp_path / "r")
    assert sorted(problems.problem_id) == ["a", "b", "c"]


async def test_no_more_than_in_flight_run_at_once(tmp_path):
    running, most = 0, 0

    @dataclass(frozen=True)
    class Counting:
        async def search(self, problem, session):
            nonlocal running, most
            running += 1
            most = max(most, running)
            result = await Greedy().search(problem, session)
            running -= 1
            return result

    await run(tmp_path / "r", jobs(Counting(), "counting", ids="abcdefgh"), in_flight=3)
    assert most == 3


def test_a_label_shows_n_and_what_differs_from_the_defaults():
    assert strategy_label("greedy", Greedy()) == "greedy"
    assert strategy_label("best_of_n", BestOfN(n=16)) == "best_of_n n=16"
    assert strategy_label("beam_search", BeamSearch(n=8, beam_width=2)) == "beam_search n=8 beam_width=2"

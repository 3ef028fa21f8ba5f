import asyncio
from dataclasses import dataclass

import pytest

from orchestrator.core.errors import PoolExhausted
from orchestrator.core.nouns import Comparison, Problem
from orchestrator.results import ResultsWriter, read_results
from orchestrator.runner import Job, RunInfo, run_jobs, solve_job, strategy_label
from strategies.beam_search import BeamSearch
from strategies.best_logprob import BestLogprob
from strategies.best_of_n import BestOfN
from strategies.deepconf import DeepConf
from strategies.greedy import Greedy
from strategies.workload import Workload
from strategies.workload_budget import WorkloadBudget
from tests.fakes import EOS, ScriptedPolicy, TableVerifier, confidence_of, ids, open_session

INFO = RunInfo(run_id="r", policy_model="scripted", verifier_model=None, version="0")
SCRIPT = {"Q:": ["Answer: 1"], "hard:": ["Answer: 7"]}


class TableGrader:
    async def grade(self, problem, answers):
        return [Comparison(equal=answer == "1") for answer in answers]


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


async def run(
    folder, todo, *, resume=False, session=None, timeout_s=60.0, in_flight=2, on_row=lambda row, candidates: None
):
    policy = ScriptedPolicy(SCRIPT)
    with ResultsWriter.open(folder, run_yaml="name: r\n", versions={}, resume=resume) as results:
        await run_jobs(
            todo,
            session_of=session or (lambda seed, observer=None: open_session(policy, TableVerifier(lambda text: 0.5))),
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
    await run(tmp_path / "r", jobs(Failing(), "failing"), resume=True, on_row=lambda row, candidates: rows.append(row))
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


MIXED = {"easy": 0.97, "hard": 0.1}  # what the verifier says of each problem's samples


def mixed_jobs(strategy, ids=("easy1", "easy2", "hard1", "hard2"), name="workload_budget", seed=0):
    problems = [Problem.from_prompt(id, f"{id[:-1]} Q:") for id in ids]
    return [Job(problem=problem, strategy_name=name, strategy=strategy, seed=seed) for problem in problems]


def mixed_session(seed, observer=None):
    return open_session(
        ScriptedPolicy({"Q:": ["Answer: 1"]}),
        TableVerifier(lambda text: next(score for kind, score in MIXED.items() if text.startswith(kind))),
    )


async def test_a_workloads_samples_go_where_they_gain_most_and_never_above_its_budget(tmp_path):
    strategy = WorkloadBudget(n=16, samples_per_problem=6)
    await run(
        tmp_path / "r", [*mixed_jobs(strategy), *mixed_jobs(strategy, seed=1)], session=mixed_session, in_flight=1
    )
    problems, _ = read_results(tmp_path / "r")
    for _, rows in problems.groupby("seed"):
        samples = rows.set_index("problem_id").num_candidates
        assert samples.sum() == 24
        assert samples["easy1"] == samples["easy2"] == 2
        assert abs(samples["hard1"] - samples["hard2"]) <= 2


async def test_a_problem_that_fails_leaves_its_share_of_the_workload_to_the_others(tmp_path):
    @dataclass(frozen=True)
    class Unlucky(WorkloadBudget):
        async def search(self, problem, session):
            if problem.id == "easy1":
                raise ValueError("bad luck")
            return await super().search(problem, session)

    strategy = Unlucky(n=16, samples_per_problem=6)
    await run(tmp_path / "r", mixed_jobs(strategy), session=mixed_session)
    problems, _ = read_results(tmp_path / "r")
    assert problems.set_index("problem_id").status.to_dict()["easy1"] == "error"
    assert problems.num_candidates.sum() == 24


async def test_resuming_a_workload_spends_only_what_is_left_of_its_budget(tmp_path):
    strategy = WorkloadBudget(n=16, samples_per_problem=6)
    alone = mixed_jobs(strategy, ids=("hard1",))
    await run(tmp_path / "r", alone, session=mixed_session)  # 6 samples
    await run(tmp_path / "r", mixed_jobs(strategy), session=mixed_session, resume=True)
    problems, _ = read_results(tmp_path / "r")
    assert problems.num_candidates.sum() == 24


async def test_a_jobs_time_stands_still_while_it_waits_for_its_turn(tmp_path):
    @dataclass(frozen=True)
    class Waiting:
        """The problem `slow` holds the only grant until its time is over."""

        def open_workload(self, num_problems, in_flight, *, done=0, spent=0):
            return Workload(num_problems=num_problems, samples=10, in_flight=in_flight)

        async def search(self, problem, session):
            await session.workload.grant(problem.id, gain=1.0, samples=1)
            if problem.id == "slow1":
                await asyncio.Event().wait()
            return await Greedy().search(problem, session)

    todo = mixed_jobs(Waiting(), ids=("slow1", "easy1"), name="waiting")
    await run(tmp_path / "r", todo, session=mixed_session, in_flight=1, timeout_s=0.05)
    rows = read_results(tmp_path / "r")[0].set_index("problem_id")
    assert rows.error["slow1"] == "no answer after 0.05 s"
    assert rows.status["easy1"] == "ok" and rows.wall_s["easy1"] < 0.05


async def test_what_ends_the_run_ends_every_search_of_a_workload(tmp_path):
    @dataclass(frozen=True)
    class Fatal(WorkloadBudget):
        async def search(self, problem, session):
            if problem.id == "hard2":
                raise PoolExhausted("gone")
            return await super().search(problem, session)

    before = asyncio.all_tasks()
    with pytest.raises(PoolExhausted):
        await run(tmp_path / "r", mixed_jobs(Fatal(n=16, samples_per_problem=6)), session=mixed_session)
    assert asyncio.all_tasks() == before


def test_a_label_shows_n_and_what_differs_from_the_defaults():
    assert strategy_label("greedy", Greedy()) == "greedy"
    assert strategy_label("best_of_n", BestOfN(n=16)) == "best_of_n n=16"
    assert strategy_label("beam_search", BeamSearch(n=8, beam_width=2)) == "beam_search n=8 beam_width=2"


async def test_rows_hold_the_policys_confidence_step_by_step_only_where_it_was_asked_for(tmp_path):
    script, found = {"Q:": ["a\n\nAnswer: 1"]}, {}
    for name, strategy in (("deepconf", DeepConf(n=1)), ("best_logprob", BestLogprob(n=1)), ("greedy", Greedy())):
        with ResultsWriter.open(tmp_path / name, run_yaml="name: x\n", versions={}) as results:
            await run_jobs(
                jobs(strategy, name, "a"),
                session_of=lambda seed, observer=None: open_session(ScriptedPolicy(script)),
                grader=TableGrader(),
                results=results,
                info=INFO,
                in_flight=1,
                timeout_s=10.0,
                on_row=lambda row, candidates: None,
            )
        [found[name]] = read_results(tmp_path / name)[1].to_dict("records")
    tokens = (*ids("a\n\nAnswer: 1"), EOS)
    confidences = [confidence_of(token).confidence for token in tokens]
    full = found["deepconf"]
    assert full["token_confidences"].tolist() == confidences and full["token_ids"].tolist() == list(tokens)
    assert full["step_confidences"].tolist() == pytest.approx([sum(confidences[:3]) / 3, sum(confidences[3:]) / 10])
    assert full["step_logprobs"].tolist() == [-sum(tokens[:3]), -sum(tokens[3:])]
    assert full["step_entropies"].tolist() == pytest.approx([sum(tokens[:3]) / 3 / 128, sum(tokens[3:]) / 10 / 128])
    assert len(full["step_self_certainties"]) == 2
    columns = ("step_confidences", "step_entropies", "step_self_certainties", "token_confidences")
    assert [found["best_logprob"][column] for column in columns] == [None] * 4
    assert found["best_logprob"]["step_logprobs"] is not None and found["greedy"]["step_logprobs"] is None


async def test_the_tree_of_a_search_comes_with_its_row_where_that_is_asked_for():
    def session_of(seed, observer=None):
        return open_session(ScriptedPolicy(SCRIPT), TableVerifier(lambda text: 0.5), observer=observer)

    [job] = jobs(BestOfN(n=2), "best_of_n", "a")
    common = {"session_of": session_of, "grader": TableGrader(), "info": INFO, "timeout_s": 10.0}
    row, _, tree = await solve_job(job, None, **common, keep_tree=True)
    nodes = tree.to_pylist()
    assert [node["text"] for node in nodes] == ["Q:", "Answer: 1", "Answer: 1"]
    assert {(node["problem_id"], node["strategy"], node["params"], node["seed"]) for node in nodes} == {row.key}
    assert [node["score"] for node in nodes] == [None, 0.5, 0.5] and [node["chosen"] for node in nodes].count(True) == 2
    assert (await solve_job(job, None, **common))[2] is None

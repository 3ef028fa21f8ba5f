"""Real strategies over a synthetic recording, through the real session and runner."""

import json
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments.config import NamedStrategy
from experiments.data.sets.gsm8k import Gsm8k
from experiments.replay.recording import read_recording, recording_of
from experiments.replay.run import info_of, jobs_of, plan_replay, replay, replay_rows
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import SearchResult, Status
from orchestrator.results import ResultsWriter, read_results
from strategies.adaptive_best_of_n import AdaptiveBestOfN
from strategies.adaptive_consistency import AdaptiveConsistency
from strategies.beam_search import BeamSearch
from strategies.best_logprob import BestLogprob
from strategies.best_of_n import BestOfN
from strategies.budget_forcing import BudgetForcing
from strategies.deepconf import DeepConf
from strategies.genselect import GenSelect
from strategies.greedy import Greedy
from strategies.selection import RankBy, as_candidates, best_scored
from strategies.self_consistency import SelfConsistency
from strategies.self_refine import SelfRefine
from strategies.tournament import Tournament
from strategies.workload_budget import WorkloadBudget
from tests.experiments.synthetic import NUM_PROBLEMS, NUM_SAMPLES, write_run


@pytest.fixture
def recording(tmp_path):
    write_run(tmp_path / "run")
    return read_recording(tmp_path / "run")


def test_settings_of_earlier_versions_that_a_data_set_does_not_have_are_passed_over(tmp_path):
    write_run(tmp_path / "run")
    former = "data: {name: gsm8k, split: test, path: a, problem_field: problem, id_field: null, grader: exact}"
    (tmp_path / "run" / "run.yaml").write_text(f"seed: 0\n{former}\n")
    assert read_recording(tmp_path / "run").data == Gsm8k(name="gsm8k", path="a", grader="exact")


def by_problem(rows):
    return {row.problem_id: row for row in rows}


def test_best_of_all_samples_finds_what_the_run_found(recording, tmp_path):
    problems, _ = read_results(tmp_path / "run")
    recorded = problems[problems.strategy == "best_of_n"].set_index("problem_id")
    rows = by_problem(replay_rows(recording, "best_of_n", BestOfN(n=NUM_SAMPLES), [0, 1]))
    assert len(rows) == NUM_PROBLEMS
    assert {id: row.correct for id, row in rows.items()} == recorded.correct.to_dict()
    assert all(row.generated_tokens == 3 * NUM_SAMPLES for row in rows.values())


def test_samples_come_in_an_order_of_their_own_for_each_seed_and_the_same_for_all_strategies(recording):
    few = [
        {row.problem_id: row.correct for row in replay_rows(recording, name, strategy, [seed])}
        for name, strategy in (("best_of_n", BestOfN(n=1)), ("self_consistency", SelfConsistency(n=1)))
        for seed in (0, 1)
    ]
    assert few[0] == few[2] and few[1] == few[3]
    assert few[0] != few[1]


def test_scores_costs_and_flops_are_those_of_the_recording(recording):
    [row] = [row for row in replay_rows(recording, "best_of_n", BestOfN(n=8), [0]) if row.problem_id == "p8"]
    assert row.score == pytest.approx(0.87)
    assert row.verifier_tokens == 2 + 8 * 3, "the prompt once, then each sample's own tokens"
    assert row.verifier_flops == pytest.approx(1e6 * row.verifier_tokens)
    assert row.prompt_tokens - row.cached_tokens == 2 + 7 * 1, "the prompt once, then its last token for each sample"
    assert row.policy_flops == pytest.approx(recording.policy_flops * (2 + 7 + 8 * (3 - 1)), rel=1e-5)


def test_lower_bounds_are_those_of_the_recorded_uncertainties(recording):
    strategy = BestOfN(n=8, selection=RankBy(kind="lower_bound", z=2.0))
    [row] = [row for row in replay_rows(recording, "best_of_n", strategy, [0]) if row.problem_id == "p8"]
    assert row.score == pytest.approx(0.87 - 2 * 0.1)


def test_what_the_run_could_not_judge_ranks_last_in_a_replay_too(tmp_path):
    write_run(tmp_path)
    for file in (tmp_path / "candidates").glob("*.parquet"):
        table = pq.read_table(file)
        rows = table.to_pylist()
        for row in rows:
            if row["problem_id"] == "p8" and row["candidate"] % 2 and row["aggregate_score"] is not None:
                row |= {"aggregate_score": None, "unjudged": "a riddle", "step_scores": [0.5, None]}
        pq.write_table(pa.Table.from_pylist(rows, table.schema), file)
    [row] = [
        row
        for row in replay_rows(read_recording(tmp_path), "best_of_n", BestOfN(n=NUM_SAMPLES), [0])
        if row.problem_id == "p8"
    ]
    assert (row.status, row.score) == ("ok", pytest.approx(0.86))  # the best of those with even numbers


def test_adaptive_strategies_run_on_a_recording(recording):
    rows = by_problem(replay_rows(recording, "adaptive_best_of_n", AdaptiveBestOfN(n=8, probe=2), [0]))
    assert rows["p8"].num_candidates < rows["p0"].num_candidates == 8
    shared = replay_rows(recording, "workload_budget", WorkloadBudget(n=8, samples_per_problem=4), [0, 1])
    for seed in (0, 1):
        assert sum(row.num_candidates for row in shared if row.seed == seed) == 4 * NUM_PROBLEMS


@dataclass(frozen=True)
class Stepwise:
    """Writes n samples step by step; `forks` children of each first step."""

    n: int = 8
    forks: int = 1

    async def search(self, problem, session):
        first = await session.expand([await session.start(problem)], self.n)
        assert all(t.status is Status.RUNNING and t.text == "" and len(t.step_scores) == 1 for t in first)
        whole = await session.expand(first, self.forks)
        assert all(t.status is Status.FINISHED and len(t.step_scores) == 2 for t in whole)
        candidates = as_candidates(whole, "last")
        return SearchResult(candidates=candidates, chosen=best_scored(candidates))


def test_a_drawn_sample_can_be_continued_step_by_step(recording):
    whole = by_problem(replay_rows(recording, "best_of_n", BestOfN(n=8), [0]))
    stepwise = by_problem(replay_rows(recording, "stepwise", Stepwise(), [0]))
    for id, row in stepwise.items():
        assert (row.answer, row.score, row.generated_tokens) == (
            whole[id].answer,
            whole[id].score,
            whole[id].generated_tokens,
        )


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Stepwise(n=2, forks=3), "only samples from the prompt were recorded"),
        (BeamSearch(n=4, beam_width=1), "only samples from the prompt were recorded"),
        (Greedy(), "recorded were samples of temperature 0.8, got a request for 0"),
        (BudgetForcing(), "only whole samples were recorded"),
        (DeepConf(n=2), "no log-probabilities were recorded"),
        (BestLogprob(n=2), "no log-probabilities were recorded"),
        (SelfRefine(n=2), "got a strategy that asks another one"),
        (GenSelect(n=8), "got a strategy that asks another one"),
        (Tournament(n=8), "got a strategy that asks another one"),
        (BestOfN(n=9), "p0 has 8 recorded samples, got a strategy that draws more"),
    ],
)
def test_what_was_not_recorded_is_refused(recording, strategy, message):
    with pytest.raises(UserError, match=message):
        replay_rows(recording, "x", strategy, [0])


@pytest.fixture
def confident(tmp_path):
    write_run(tmp_path / "confident", confident=True)
    return read_recording(tmp_path / "confident")


def test_confidence_that_was_recorded_serves_the_strategies_that_want_it(confident):
    rows = by_problem(replay_rows(confident, "deepconf", DeepConf(n=8, keep=0.1), [0]))
    assert {row.score for row in rows.values()} == {(11.0 + 13.0 + 20.0) / 3}  # of sample 7
    assert replay_rows(confident, "best_logprob", BestLogprob(n=8), [0])[0].score == pytest.approx(-0.1)
    cges = replay_rows(confident, "adaptive_consistency", AdaptiveConsistency(n=8, rule="cges"), [0])
    assert all(row.status == "ok" for row in cges)


def test_a_floor_stops_recorded_samples_as_it_stops_written_ones(confident):
    strategy = DeepConf(n=8, n_warmup=1, keep=1.0, confidence="lowest_group", group_tokens=2, consensus=None)
    for row in replay_rows(confident, "deepconf", strategy, [0, 1]):
        detail = json.loads(row.detail)
        assert row.generated_tokens == 3 * (8 - detail["stopped"]) + 2 * detail["stopped"], "stopped at the first group"
        assert row.num_candidates == 8 - detail["stopped"] == len(detail["voters"])


def test_log_probabilities_without_confidence_do_not_pass_for_it(confident):
    problems = [
        replace(one, samples=tuple(replace(sample, confidences=None) for sample in one.samples))
        for one in confident.problems
    ]
    bare = replace(confident, problems=tuple(problems))
    assert replay_rows(bare, "best_logprob", BestLogprob(n=2), [0])
    with pytest.raises(UserError, match=r"no confidence was recorded, .* weight: confidence"):
        replay_rows(bare, "deepconf", DeepConf(n=2), [0])


def test_samples_of_several_seeds_are_one_pool(tmp_path):
    write_run(tmp_path / "run", seeds=(0, 1))
    recording = read_recording(tmp_path / "run")
    assert recording.num_samples == 2 * NUM_SAMPLES
    assert all(row.num_candidates == 16 for row in replay_rows(recording, "best_of_n", BestOfN(n=16), [0]))


async def test_in_order_a_smaller_n_gets_the_first_samples_of_a_seed_and_says_where_they_are_from(tmp_path):
    write_run(tmp_path / "run", seeds=(0, 1))
    problems, candidates = read_results(tmp_path / "run")
    sampled = candidates[candidates.strategy == "best_of_n"]
    for seed in (0, 1):
        recording = recording_of(tmp_path / "run", problems[problems.seed == seed], candidates[candidates.seed == seed])
        jobs = jobs_of(recording, NamedStrategy(name="best_of_n", strategy=BestOfN(n=3)), [seed])
        with ResultsWriter.open(tmp_path / f"few{seed}", run_yaml="name: few\n", versions={}) as results:
            await replay(
                recording,
                jobs,
                results=results,
                info=info_of(recording, "few"),
                source="run: best_of_n n=8",
                in_order=True,
            )
        few_problems, few = read_results(tmp_path / f"few{seed}")
        recorded = sampled[(sampled.seed == seed) & (sampled.candidate < 3)]
        columns = ["problem_id", "candidate", "answer", "correct", "aggregate_score"]
        expected = recorded[columns].sort_values(["problem_id", "candidate"]).reset_index(drop=True)
        found = few[columns].sort_values(["problem_id", "candidate"]).reset_index(drop=True)
        assert found.equals(expected)
        assert [tuple(ids) for ids in few.token_ids] == [(seed, i // 2, i) for i in few.candidate]
        assert (few_problems.replayed_from == "run: best_of_n n=8").all()


async def test_a_replay_counts_the_thinking_that_was_recorded(recording, tmp_path):
    thought = [replace(sample, thinking_tokens=2) for sample in recording.problems[0].samples]
    recording = replace(recording, problems=(replace(recording.problems[0], samples=tuple(thought)),))
    jobs = jobs_of(recording, NamedStrategy(name="best_of_n", strategy=BestOfN(n=3)), [0])
    with ResultsWriter.open(tmp_path / "again", run_yaml="name: again\n", versions={}) as results:
        await replay(recording, jobs, results=results, info=info_of(recording, "again"), source="run")
    problems, candidates = read_results(tmp_path / "again")
    assert problems.thinking_tokens.tolist() == [6]
    assert candidates.thinking_tokens.tolist() == [2, 2, 2]


def test_samples_without_scores_serve_strategies_that_need_none(tmp_path):
    write_run(tmp_path / "run", judged=False)
    recording = read_recording(tmp_path / "run")
    assert replay_rows(recording, "self_consistency", SelfConsistency(n=4), [0])
    with pytest.raises(UserError, match="was not scored"):
        replay_rows(recording, "best_of_n", BestOfN(n=4), [0])


def test_a_run_without_samples_is_refused(tmp_path):
    write_run(tmp_path / "run", sampled=False)
    with pytest.raises(UserError, match="holds no independent samples"):
        read_recording(tmp_path / "run")


async def test_a_replay_can_be_written_like_a_run(recording, tmp_path):
    with ResultsWriter.open(tmp_path / "again", run_yaml="name: again\n", versions={}) as results:
        [named] = plan(tmp_path, "strategies: [{name: best_of_n, n: 8}]").strategies
        await replay(
            recording, jobs_of(recording, named, [0]), results=results, info=info_of(recording, "again"), source="run"
        )
    problems, candidates = read_results(tmp_path / "again")
    assert len(problems) == NUM_PROBLEMS and len(candidates) == NUM_PROBLEMS * NUM_SAMPLES
    assert problems.policy_model.unique().tolist() == ["models/tiny-policy"]
    assert candidates.groupby("problem_id").correct.sum()["p3"] == 3


def plan(tmp_path, text):
    path = tmp_path / "replay.yaml"
    path.write_text(text)
    return plan_replay(tmp_path / "run", path, [f"results_dir={tmp_path}"])


def test_a_plan_names_its_folder_after_the_run(recording, tmp_path):
    planned = plan(tmp_path, "strategies: [{name: best_of_n, n: [2, 4]}]\nseeds: [0, 1]")
    assert planned.folder == tmp_path / "run-replay"
    assert len(planned.jobs) == 2 * 2 * NUM_PROBLEMS


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("strategies: []", "strategies: wanted at least one, got none"),
        ("seeds: [0]", "strategies is missing"),
        ("strategies: [{name: greedy}]\nname: run", "wanted another folder"),
        ("strategies: [{name: greedy}, {name: greedy}]", "two entries"),
        ("strategies: [{name: greedy}]\nverifier: null", "verifier"),
    ],
)
def test_bad_plans_are_refused(recording, tmp_path, text, message):
    with pytest.raises(UserError, match=message):
        plan(tmp_path, text)

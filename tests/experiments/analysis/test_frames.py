from pathlib import Path

import pytest

from experiments.analysis.difficulty import oracle_difficulty
from experiments.analysis.frames import accuracies, graded, largest_sample_sets, strategy_outcomes
from experiments.analysis.frontier import Cost, frontier, strategy_points
from orchestrator.results import read_results
from tests.experiments.synthetic import NUM_PROBLEMS, NUM_SAMPLES, write_run


def test_costs_are_of_policy_and_verifier_together_and_errors_count_nowhere(tmp_path: Path) -> None:
    write_run(tmp_path, seeds=(0, 1))
    problems, _ = read_results(tmp_path)
    found = strategy_outcomes(problems)
    assert set(found) == {"best_of_n n=8", "greedy", "beam_search n=4"}
    assert set(found["greedy"]) == {f"p{i}" for i in range(NUM_PROBLEMS)}, "`broken` is an error"
    costs = found["best_of_n n=8"]["p3"].costs
    assert (costs.tokens, costs.flops, costs.seconds) == (400 + 480, 400e6 + 480e6, 0.25)
    assert found["greedy"]["p7"].accuracy == 1.0
    assert [point.label for point in frontier(strategy_points(found), Cost.TOKENS)] == [
        "greedy", "beam_search n=4", "best_of_n n=8",
    ]  # fmt: skip
    greedy = graded(problems)[graded(problems)["strategy"] == "greedy"]
    assert accuracies(greedy) == {problem: outcome.accuracy for problem, outcome in found["greedy"].items()}


def test_samples_come_by_problem_one_set_for_each_seed(tmp_path: Path) -> None:
    write_run(tmp_path, seeds=(0, 1))
    samples = largest_sample_sets(*read_results(tmp_path))
    assert {len(sets) for sets in samples.values()} == {2}
    wanted = {f"p{i}": 1 - min(i, NUM_SAMPLES) / NUM_SAMPLES for i in range(NUM_PROBLEMS)}
    assert oracle_difficulty(samples) == pytest.approx(wanted)


def test_a_run_without_samples_has_none(tmp_path: Path) -> None:
    write_run(tmp_path, sampled=False)
    assert largest_sample_sets(*read_results(tmp_path)) == {}

import itertools
import random
from statistics import fmean

import pandas as pd
import pytest

from experiments.analysis.metrics import (
    SampleSet,
    bootstrap_mean,
    paired_difference,
    pass_at_k,
    powers_of_two,
    prm_at_k,
    sample_set,
    spread,
    vote_at_k,
    wilson_interval,
)
from strategies.voting import majority_vote


def random_pool(seed: int, size: int) -> SampleSet:
    """Few distinct answers and scores, so that ties and missing values are common."""
    rng = random.Random(seed)
    groups = rng.choices([None, 1, 2, 3], k=size)
    scores = rng.choices([None, 0.0, 0.1, 0.2, 0.3, 0.9], k=size)
    return SampleSet(groups=groups, correct=[group == 2 for group in groups], scores=scores)


@pytest.mark.parametrize(
    ("successes", "total", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (15, 148, 0.0624, 0.1605)],
)
def test_wilson_has_its_published_values(successes: int, total: int, low: float, high: float) -> None:
    interval = wilson_interval(successes, total)  # 81/263 and 15/148: Newcombe (1998), table I
    assert interval.value == successes / total
    assert (interval.low, interval.high) == pytest.approx((low, high), abs=5e-5)


@pytest.mark.parametrize(("successes", "total"), [(1, 0), (3, 2), (-1, 2)])
def test_wilson_refuses_impossible_counts(successes: int, total: int) -> None:
    with pytest.raises(ValueError, match="wilson_interval"):
        wilson_interval(successes, total)


def test_pass_at_k_has_its_known_values() -> None:
    assert pass_at_k(10, 3, 1) == pytest.approx(0.3)
    assert pass_at_k(5, 2, 2) == pytest.approx(0.7)  # 1 - C(3,2)/C(5,2)
    assert pass_at_k(200, 1, 100) == pytest.approx(0.5)
    assert pass_at_k(10, 0, 10) == 0.0
    assert pass_at_k(10, 1, 10) == 1.0
    assert 0 < pass_at_k(10_000, 1, 1) < 2e-4  # no overflow


@pytest.mark.parametrize("k", [0, 11])
def test_k_must_fit_the_samples(k: int) -> None:
    with pytest.raises(ValueError, match=r"between 1 and the number of samples \(10\)"):
        pass_at_k(10, 3, k)
    with pytest.raises(ValueError, match="number of samples"):
        prm_at_k(random_pool(0, 10), k)
    with pytest.raises(ValueError, match="number of samples"):
        vote_at_k(random_pool(0, 10), [k], weighted=False)


@pytest.mark.parametrize("k", [1, 2, 4, 6])
def test_prm_at_k_is_the_mean_over_all_ordered_subsets(k: int) -> None:
    for seed in range(5):
        pool = random_pool(seed, 6)
        scores = [-1.0 if score is None else score for score in pool.scores]
        rank = [(group is not None, score) for group, score in zip(pool.groups, scores, strict=True)]
        # max() takes the first of equals, so all orders together break ties evenly
        wanted = fmean(
            pool.correct[max(subset, key=lambda i: rank[i])] for subset in itertools.permutations(range(6), k)
        )
        assert prm_at_k(pool, k) == pytest.approx(wanted)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_votes_at_k_approach_the_mean_over_all_ordered_subsets(weighted: bool, k: int) -> None:
    for seed in range(5):
        pool = random_pool(seed, 5)
        weights = [1.0 if not weighted else score or 0.0 for score in pool.scores]
        wanted = fmean(
            majority_vote([pool.groups[i] for i in order], [weights[i] for i in order]) == 2
            for order in itertools.permutations(range(5), k)
        )
        estimate = vote_at_k(pool, [k], weighted=weighted, num_subsets=20_000)[k]
        assert estimate == pytest.approx(wanted, abs=0.02)


def test_votes_of_a_whole_pool_without_ties_are_exact() -> None:
    pool = SampleSet(
        groups=[1, 1, 1, 2, 2, None],
        correct=[False, False, False, True, True, False],
        scores=[0.1, 0.1, 0.1, 0.4, None, 1.0],
    )
    assert vote_at_k(pool, [6], weighted=False) == {6: 0.0}
    assert vote_at_k(pool, [6], weighted=True) == {6: 1.0}


def test_an_unanswered_sample_is_chosen_only_where_nothing_else_is_there() -> None:
    pool = SampleSet(groups=[None, 0, 0, None], correct=[False, True, True, False], scores=[0.9, 0.2, 0.2, 0.8])
    assert prm_at_k(pool, 4) == 1.0
    assert prm_at_k(pool, 1) == 0.5


def test_samples_that_could_not_be_graded_are_left_out_and_equal_answers_are_the_runs_own() -> None:
    rows = pd.DataFrame(
        {
            "answer": ["1/2", "0.5", "7", None],
            "answer_group": pd.array([0, 0, 1, None], dtype="Int64"),
            "correct": pd.array([True, True, None, False], dtype="boolean"),
            "aggregate_score": [0.5, None, 0.9, 0.1],
            "step_scores": [[0.4, 0.5], [None], [0.9], [0.1]],
        }
    )
    pool = sample_set(rows)
    assert pool == SampleSet(groups=[0, 0, None], correct=[True, True, False], scores=[0.5, None, 0.1])
    older = sample_set(rows.assign(answer_group=pd.array([None] * 4, dtype="Int64")))
    assert older is not None and older.groups == [0, 1, None], "older runs compared strings"
    assert sample_set(rows[2:3]) is None


def test_the_policys_own_confidence_is_no_score_of_a_verifier() -> None:
    rows = pd.DataFrame(
        {
            "answer": ["1", "2"],
            "answer_group": pd.array([0, 1], dtype="Int64"),
            "correct": pd.array([True, False], dtype="boolean"),
            "aggregate_score": [12.5, 9.0],
            "step_scores": [[None, None], [float("nan")]],
        }
    )
    pool = sample_set(rows)
    assert pool is not None and not pool.scored


def test_votes_without_any_answer_are_wrong() -> None:
    pool = SampleSet(groups=[None, None], correct=[False, False], scores=[0.9, 0.9])
    assert vote_at_k(pool, [1, 2], weighted=False) == {1: 0.0, 2: 0.0}


def test_all_metrics_agree_for_one_sample_and_coverage_bounds_them() -> None:
    for seed in range(20):
        pool = random_pool(seed, 12)
        mean = fmean(pool.correct)
        for weighted in (False, True):
            votes = vote_at_k(pool, [1, 2, 4, 8], weighted=weighted)
            assert votes[1] == pytest.approx(mean)
            assert all(votes[k] <= pass_at_k(12, sum(pool.correct), k) + 0.1 for k in votes)
        assert prm_at_k(pool, 1) == pytest.approx(mean) == pass_at_k(12, sum(pool.correct), 1)
        assert all(prm_at_k(pool, k) <= pass_at_k(12, sum(pool.correct), k) + 1e-12 for k in (2, 4, 8, 12))


def test_estimates_are_the_same_every_time() -> None:
    pool = random_pool(3, 16)
    assert vote_at_k(pool, [4], weighted=True) == vote_at_k(pool, [4], weighted=True)
    assert bootstrap_mean([0.0, 1.0, 1.0]) == bootstrap_mean([0.0, 1.0, 1.0])


def test_bootstrap_interval_is_that_of_the_mean() -> None:
    values = [0.0, 1.0] * 200
    interval = bootstrap_mean(values)
    assert interval.value == 0.5
    assert (interval.low, interval.high) == pytest.approx((0.5 - 0.049, 0.5 + 0.049), abs=0.005)  # 1.96 x 0.5 / 20
    assert bootstrap_mean([0.3] * 10).high == pytest.approx(0.3)


def test_pairing_finds_a_difference_that_problems_hide() -> None:
    base = {f"p{i}": float(i % 2) for i in range(100)}
    better = base | {f"p{i}": 1.0 for i in range(0, 20, 2)}  # ten more problems, the rest equal
    interval = paired_difference(better, base)
    assert interval.value == pytest.approx(0.1)
    assert interval.low > 0
    assert wilson_interval(60, 100).low < wilson_interval(50, 100).high  # unpaired intervals overlap


def test_pairing_uses_shared_problems_only() -> None:
    assert paired_difference({"a": 1.0, "b": 1.0}, {"b": 0.0, "c": 1.0}).value == 1.0
    with pytest.raises(ValueError, match="no problem in common"):
        paired_difference({"a": 1.0}, {"b": 1.0})


def test_powers_of_two_stop_at_the_largest() -> None:
    assert powers_of_two(1) == [1]
    assert powers_of_two(16) == [1, 2, 4, 8, 16]
    assert powers_of_two(17) == [1, 2, 4, 8, 16]


def test_a_pool_is_never_ragged_or_empty() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 2, 1\)"):
        SampleSet(groups=[1], correct=[True, False], scores=[None])
    with pytest.raises(ValueError, match="at least one"):
        SampleSet(groups=[], correct=[], scores=[])


def test_a_spread_takes_the_chance_of_seeds_apart_from_that_of_problems() -> None:
    alike = spread([[1, 1], [0, 0], [1, 1], [0, 0]])
    assert alike is not None
    assert alike.seeds == 0 and alike.problems == pytest.approx(alike.both)
    assert alike.both == pytest.approx(1.96 * (1 / 3 / 4) ** 0.5, rel=1e-3)
    random_ones = spread([[1, 0], [0, 1], [1, 0], [0, 1]])
    assert random_ones is not None
    assert random_ones.both == 0 and random_ones.problems == 0
    assert random_ones.seeds == pytest.approx(1.96 * (4 * 0.5 / 2 / 16) ** 0.5, rel=1e-3)


def test_a_spread_covers_what_sampling_the_same_problems_again_gives() -> None:
    rng = random.Random(0)
    chances = [rng.random() for _ in range(60)]

    def again() -> list[list[float]]:
        return [[float(rng.random() < chance) for _ in range(3)] for chance in chances]

    inside = 0
    for _ in range(300):
        outcomes = again()
        found = spread(outcomes)
        assert found is not None
        inside += abs(fmean(map(fmean, outcomes)) - fmean(chances)) <= found.seeds
    assert 0.9 <= inside / 300 <= 0.99


def test_one_seed_or_one_problem_has_no_spread() -> None:
    assert spread([[1], [0], [1]]) is None
    assert spread([[1, 0]]) is None

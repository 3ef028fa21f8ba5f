import itertools
import random
from statistics import fmean

import numpy as np
import pandas as pd
import pytest

from experiments.analysis.metrics import (
    SampleSet,
    best_of_k_chances,
    metrics_at_k,
    pass_at_k,
    powers_of_two,
    prm_at_k,
    sample_set,
    vote_at_k,
)
from strategies.voting import majority_vote


def random_pool(seed: int, size: int) -> SampleSet:
    """Few distinct answers and scores, so that ties and missing values are common."""
    rng = random.Random(seed)
    groups = rng.choices([None, 1, 2, 3], k=size)
    scores = rng.choices([None, 0.0, 0.1, 0.2, 0.3, 0.9], k=size)
    return SampleSet(groups=groups, correct=[group == 2 for group in groups], scores=scores)


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


def test_powers_of_two_stop_at_the_largest() -> None:
    assert powers_of_two(1) == [1]
    assert powers_of_two(16) == [1, 2, 4, 8, 16]
    assert powers_of_two(17) == [1, 2, 4, 8, 16]


def test_a_pool_is_never_ragged_or_empty() -> None:
    with pytest.raises(ValueError, match=r"got \(1, 2, 1\)"):
        SampleSet(groups=[1], correct=[True, False], scores=[None])
    with pytest.raises(ValueError, match="at least one"):
        SampleSet(groups=[], correct=[], scores=[])


def test_the_best_of_k_is_some_sample_and_every_sample_at_k_1() -> None:
    for seed in range(5):
        pool = random_pool(seed, 9)
        for k in (1, 4, 9):
            assert best_of_k_chances(pool, k).sum() == pytest.approx(1)
        assert best_of_k_chances(pool, 1) == pytest.approx(np.full(9, 1 / 9))
    ordered = SampleSet(groups=[0, 0, 0], correct=[True] * 3, scores=[0.1, 0.9, 0.5])
    assert best_of_k_chances(ordered, 2) == pytest.approx([0, 2 / 3, 1 / 3])


def test_a_problem_with_fewer_samples_counts_with_those_it_has() -> None:
    pool = random_pool(1, 4)
    found = metrics_at_k(pool, [4, 8], seed=3)
    assert set(found) == {"pass@k", "maj@k", "prm@k", "weighted@k"}
    assert all(by_k[4] == by_k[8] for by_k in found.values())
    unscored = SampleSet(groups=[0], correct=[True], scores=[None])
    assert metrics_at_k(unscored, [1]) == {"pass@k": {1: 1.0}, "maj@k": {1: 1.0}}

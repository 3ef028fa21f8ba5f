import random

import pytest

from experiments.analysis.metrics import SampleSet
from experiments.config import TrustConfig
from experiments.running.trust import judge
from orchestrator.core.errors import UserError
from orchestrator.core.nouns import Selection


def pools(score, *, agree: bool = True, num_problems: int = 120, n: int = 8) -> list[SampleSet]:
    """Right answers are half of all samples; wrong ones may agree with each other (a trap for votes)."""
    rng = random.Random(0)
    made = []
    for index in range(num_problems):
        correct = [rng.random() < (0.7 if index % 2 else 0.3) for _ in range(n)]
        groups = [0 if good else 1 if agree else 2 + i for i, good in enumerate(correct)]
        made.append(SampleSet(groups=groups, correct=correct, scores=[score(good, rng) for good in correct]))
    return made


def test_a_verifier_that_beats_chance_and_majority_is_trusted():
    trust = judge(pools(lambda good, rng: 0.6 * good + 0.4 * rng.random()))
    assert trust.selection is Selection.SCORE
    assert trust.auroc.low > 0.5 and trust.over_majority.low > 0


def test_one_that_knows_something_but_chooses_no_better_than_a_majority_weighs_the_vote():
    trust = judge(pools(lambda good, rng: 0.2 * good + rng.random(), agree=False))
    assert trust.auroc.low > 0.5 and trust.over_majority.high < 0
    assert trust.selection is Selection.WEIGHTED


def test_one_that_guesses_is_overruled_by_the_majority():
    assert judge(pools(lambda good, rng: rng.random())).selection is Selection.MAJORITY
    assert judge(pools(lambda good, rng: 1.0 - good)).selection is Selection.MAJORITY


def test_problems_that_are_all_right_or_all_wrong_say_nothing():
    same = [SampleSet(groups=[0, 0], correct=[right] * 2, scores=[0.1, 0.9]) for right in (True, False)]
    assert judge(same).selection is Selection.MAJORITY


def test_one_sample_a_problem_can_not_be_ranked():
    with pytest.raises(ValueError, match="trust: n must be >= 2, got 1"):
        TrustConfig(data=None, n=1)


def test_ranking_samples_without_an_answer_last_is_no_merit_of_the_verifier():
    made = []
    for pool in pools(lambda good, rng: rng.random()):
        groups = [*pool.groups, *[None] * 8]
        made.append(SampleSet(groups=groups, correct=[*pool.correct, *[False] * 8], scores=[*pool.scores, *[0.0] * 8]))
    assert judge(made).auroc.low <= 0.5


def test_without_a_graded_sample_the_verifier_can_not_be_tried():
    with pytest.raises(UserError, match=r"trust: not one sample of trust\.data could be graded"):
        judge([])

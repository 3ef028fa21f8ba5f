"""Which candidate is chosen by scores: their means, or lower bounds of them."""

import random
from statistics import fmean

import pytest

from orchestrator.core.nouns import Problem, Score, Step, Trajectory
from strategies.aggregation import Aggregation
from strategies.best_of_n import BestOfN
from strategies.selection import BY_MEAN, RankBy, as_candidates, best_scored

PROBLEM = Problem.from_prompt("p", "Q:")


def judged(*scores: Score, answer: str = "1") -> Trajectory:
    steps = tuple(Step(token_ids=(1,), text="a", score=score) for score in scores)
    return Trajectory(problem=PROBLEM, prompt_ids=(1,), steps=steps, answer=answer)


def chosen(trajectories, by: RankBy) -> int | None:
    return best_scored(as_candidates(trajectories, Aggregation.last, by))


def test_a_lower_bound_holds_doubt_against_a_score():
    sure, unsure = judged(Score(mean=0.7, std=0.05)), judged(Score(mean=0.9, std=0.3))
    assert chosen([sure, unsure], BY_MEAN) == 1
    assert chosen([sure, unsure], RankBy(kind="lower_bound")) == 0
    assert chosen([sure, unsure], RankBy(kind="lower_bound", z=0.5)) == 1


@pytest.mark.parametrize(("how", "score"), [("last", 0.6), ("min", 0.3), ("prod", 0.18), ("mean", 0.45)])
def test_every_step_is_lowered_before_the_steps_are_aggregated(how, score):
    trajectory = judged(Score(mean=0.4, std=0.1), Score(mean=0.7, std=0.1))
    [candidate] = as_candidates([trajectory], Aggregation(how), RankBy(kind="lower_bound"))
    assert candidate.aggregate_score == pytest.approx(score)


def test_a_lower_bound_is_never_below_zero():
    [candidate] = as_candidates([judged(Score(mean=0.1, std=0.3))], Aggregation.last, RankBy(kind="lower_bound"))
    assert candidate.aggregate_score == 0.0


def test_what_has_no_score_has_no_lower_bound():
    [candidate] = as_candidates([judged()], Aggregation.last, RankBy(kind="lower_bound"))
    assert candidate.aggregate_score is None


def weak_verdict(rng: random.Random) -> Trajectory:
    """Of a verifier that is sure of what it knows and, of a part of the wrong samples, knows next to nothing: there its
    mean is far off, and it says so."""
    correct = rng.random() < 0.4
    worth = 0.65 if correct else 0.5
    std = 0.4 if not correct and rng.random() < 0.2 else 0.08
    mean = min(1.0, max(0.0, rng.gauss(worth, std)))
    return judged(Score(mean=mean, std=std), answer="right" if correct else "wrong")


def prm_at(k: int, by: RankBy, problems: int = 1500) -> float:
    """Accuracy of the best of k samples."""
    rng = random.Random(k)
    pools = ([weak_verdict(rng) for _ in range(k)] for _ in range(problems))
    return fmean(pool[chosen(pool, by)].answer == "right" for pool in pools)


def test_where_a_weak_verifier_is_unsure_more_samples_hurt_the_best_mean_and_not_the_best_lower_bound():
    means = [prm_at(k, BY_MEAN) for k in (1, 4, 16, 64)]
    bounds = [prm_at(k, RankBy(kind="lower_bound", z=1.0)) for k in (1, 4, 16, 64)]
    assert means[1] - 0.05 > means[2] > means[3] + 0.05
    assert bounds[0] < bounds[1] < bounds[2] < bounds[3]
    assert bounds[3] > means[3] + 0.3


@pytest.mark.parametrize("z", [-0.1, float("inf"), float("nan")])
def test_a_bad_z_is_an_error_that_names_it(z):
    with pytest.raises(ValueError, match=rf"selection: z must be >= 0 and finite, got {z}"):
        RankBy(z=z)


def test_it_is_short_in_a_label():
    assert str(BestOfN().selection) == "mean"
    assert str(RankBy(kind="lower_bound", z=2)) == "lower_bound(z=2)"

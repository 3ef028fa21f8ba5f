import pytest

from orchestrator.core.nouns import Candidate, Problem, Trajectory
from strategies.allocation import marginal_gain

PROBLEM = Problem.from_prompt("p", "Q:")


def drawn(*samples):
    """Candidates from (answer, score) pairs."""
    return [
        Candidate(trajectory=Trajectory(problem=PROBLEM, prompt_ids=(1,), answer=answer), aggregate_score=score)
        for answer, score in samples
    ]


def gain(candidates):
    """With equal strings as equal answers."""
    answers = [candidate.trajectory.answer for candidate in candidates]
    return marginal_gain(candidates, [None if answer is None else answers.index(answer) for answer in answers])


def test_equal_answers_are_those_of_one_group():
    samples = drawn(("1/2", 0.8), ("0.5", 0.7))
    assert marginal_gain(samples, [0, 0]) < marginal_gain(samples, [0, 1])


def test_the_gain_before_anything_is_known_is_half():
    assert gain([]) == 0.5


def test_the_gain_is_the_chance_of_a_new_best_times_another_answer_times_half_the_room():
    assert gain(drawn(("1", 0.5), ("1", 0.5), ("2", 0.25))) == pytest.approx((1 / 4) * (1 - 1 / 2.25) * 0.25)


def test_the_gain_falls_with_samples_with_the_best_score_and_with_agreement():
    assert gain(drawn(("1", 0.8), ("1", 0.8))) < gain(drawn(("1", 0.8)))
    assert gain(drawn(("1", 0.9))) < gain(drawn(("1", 0.8)))
    assert gain(drawn(("1", 0.8), ("1", 0.7))) < gain(drawn(("1", 0.8), ("2", 0.7)))


def test_nothing_is_gained_above_certainty():
    assert gain(drawn(("1", 1.0))) == 0


def test_a_sample_without_an_answer_or_a_score_is_one_that_nobody_believes_in():
    assert gain(drawn((None, 0.9))) == gain(drawn(("1", None))) == 0.25

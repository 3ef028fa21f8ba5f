import random

import pytest

from strategies.consensus import answer_posteriors, beta_confidence, dirichlet_confidence, out_of_reach, vote_counts


def test_votes_are_counted_by_equal_answers_and_no_answer_is_no_vote():
    assert vote_counts([0, 1, None, 1, 2, None]) == [2, 1, 1]
    assert vote_counts([None, None]) == []


@pytest.mark.parametrize(
    ("votes", "confidence"),
    [([], 1 / 2), ([1], 3 / 4), ([3], 15 / 16), ([4], 31 / 32), ([2, 2], 1 / 2), ([5, 2, 1], 219 / 256)],
)
def test_the_beta_rule_compares_the_leader_with_the_runner_up(votes, confidence):
    assert beta_confidence(votes) == confidence


@pytest.mark.parametrize("votes", [[1], [4], [9], [2, 2], [5, 2], [30, 22], [300, 280]])
def test_between_two_answers_the_dirichlet_rule_is_the_beta_rule(votes):
    assert dirichlet_confidence(votes) == pytest.approx(beta_confidence(votes), abs=1e-5)


@pytest.mark.parametrize("votes", [[2, 1, 1], [5, 2, 2, 1], [3, 3, 3], [4, 1, 1, 1, 1, 1, 1]])
def test_the_dirichlet_rule_is_the_share_of_draws_in_which_the_leader_is_largest(votes):
    rng = random.Random(0)
    draws = [[rng.gammavariate(count + 1, 1) for count in votes] for _ in range(10_000)]
    share = sum(draw[0] == max(draw) for draw in draws) / len(draws)
    assert dirichlet_confidence(votes) == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("votes", [[1], [3, 2], [3, 2, 2], [9, 4, 4, 1, 1], [5, 5, 5]])
def test_the_dirichlet_rule_is_never_surer_than_the_beta_rule(votes):
    assert dirichlet_confidence(votes) <= beta_confidence(votes) + 1e-5


def test_every_other_answer_makes_the_dirichlet_rule_less_sure():
    assert dirichlet_confidence([5, 2]) > dirichlet_confidence([5, 2, 2]) > dirichlet_confidence([5, 2, 2, 2])


def test_a_lead_is_out_of_reach_when_the_runner_up_can_not_even_draw_level():
    assert out_of_reach([5, 2], 2)
    assert not out_of_reach([5, 2], 3)
    assert out_of_reach([3], 2)
    assert not out_of_reach([], 0)


def test_one_vote_is_as_likely_right_as_it_is_confident():
    assert answer_posteriors([0], [0.8]) == {0: pytest.approx(0.8)}


def test_votes_that_agree_make_each_other_likelier_and_others_less_likely():
    # of 0, of 1 and of none of them: 0.8 x 0.8 x 0.4/2, 0.2/2 x 0.2/2 x 0.6, 0.2/2 x 0.2/2 x 0.4/2
    found = answer_posteriors([0, 0, 1], [0.8, 0.8, 0.6])
    assert found == {0: pytest.approx(0.128 / 0.136), 1: pytest.approx(0.006 / 0.136)}


def test_a_few_sure_votes_outweigh_many_unsure_ones():
    found = answer_posteriors([0, 0, 0, 1], [0.4, 0.4, 0.4, 0.99])
    assert found[1] > 0.9


def test_votes_without_an_answer_or_a_confidence_say_nothing():
    assert answer_posteriors([0, None, 1], [0.8, 0.9, None]) == answer_posteriors([0], [0.8])
    assert answer_posteriors([None], [0.5]) == answer_posteriors([], []) == {}


def test_a_certain_vote_can_be_contradicted():
    found = answer_posteriors([0, 1, 1], [1.0, 1.0, 1.0])
    assert found[1] > 0.99 and found[0] < 0.01

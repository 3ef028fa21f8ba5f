"""Facts about the mixture of scores."""

from statistics import fmean, pstdev

import pytest

from orchestrator.core.nouns import Score
from verifiers.ensemble import Ensemble, Member, mixture


def test_the_same_score_twice_is_that_score() -> None:
    mixed = mixture([Score(mean=0.3, std=0.1)] * 2, [1.0, 1.0])
    assert (mixed.mean, mixed.std) == pytest.approx((0.3, 0.1))


def test_weights_are_relative() -> None:
    scores = [Score(mean=0.0), Score(mean=1.0)]
    assert mixture(scores, [1.0, 3.0]) == mixture(scores, [2.0, 6.0])
    assert mixture(scores, [1.0, 3.0]).mean == 0.75


def test_the_spread_is_that_of_all_draws_together() -> None:
    draws = [[0.1, 0.3, 0.5], [0.6, 0.8, 0.9]]
    scores = [Score(mean=fmean(own), std=pstdev(own)) for own in draws]
    mixed, together = mixture(scores, [1.0, 1.0]), [*draws[0], *draws[1]]
    assert (mixed.mean, mixed.std) == pytest.approx((fmean(together), pstdev(together)))


def test_members_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ValueError, match="members: wanted at least one, got none"):
        Ensemble()
    with pytest.raises(ValueError, match="weight must be > 0, got 0"):
        Member(weight=0.0)
    with pytest.raises(ValueError, match="can't be a member of another"):
        Member(name="ensemble")

"""Votes over final answers. Which answers are equal is decided before: `Session.group_answers` numbers them."""

import math
from collections.abc import Hashable, Sequence
from typing import TypeVar

A = TypeVar("A", bound=Hashable)


def majority_vote(answers: Sequence[A | None], weights: Sequence[float] | None = None) -> A | None:
    """The answer with the most votes, or with the largest sum of `weights`.

    None (no answer found) has no vote, so it wins only when there is nothing else. The answer seen first wins
    a tie.
    """
    if weights is None:
        weights = (1.0,) * len(answers)
    if len(weights) != len(answers):
        raise ValueError(f"majority_vote: wanted one weight per answer ({len(answers)}), got {len(weights)}")
    shares: dict[A, list[float]] = {}
    for answer, weight in zip(answers, weights, strict=True):
        if answer is not None:
            shares.setdefault(answer, []).append(weight)
    # exact sums: a tie must not depend on the order in which the votes were added
    return max(shares, key=lambda answer: math.fsum(shares[answer]), default=None)


def leading_share(answers: Sequence[A | None], weights: Sequence[float]) -> float:
    """The weight of the leading answer as a share of all votes' weight; 0.0 without votes. None has no vote."""
    leader = majority_vote(answers, weights)
    votes = [(answer, weight) for answer, weight in zip(answers, weights, strict=True) if answer is not None]
    total = math.fsum(weight for _, weight in votes)
    return math.fsum(weight for answer, weight in votes if answer == leader) / total if total else 0.0

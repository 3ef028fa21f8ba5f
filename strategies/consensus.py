"""Whether more votes would still change the winner. Pure.

Posteriors after Aggarwal et al., "Let's Sample Step by Step", arXiv 2305.11860, from the numbers of votes, the most
first; and one that also knows how confident each vote is, after Aghazadeh et al., "CGES", arXiv 2511.02603.
"""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import accumulate

_POINTS = 256  # of the integral: its error is below 1e-5
_UNSURE = 1e-6  # no vote is surer, or less sure, than so much away from certain


def vote_counts(groups: Sequence[int | None]) -> list[int]:
    """The votes of each answer, the most first. `groups` has equal numbers for equal answers; None has no vote."""
    return sorted(Counter(group for group in groups if group is not None).values(), reverse=True)


def out_of_reach(votes: Sequence[int], votes_to_come: int) -> bool:
    """Whether the runner-up can't draw level any more."""
    first, second = _leading_two(votes)
    return first - second > votes_to_come


def beta_confidence(votes: Sequence[int]) -> float:
    """Chance that the leader is more likely than the runner-up: P(p > 1/2) for p ~ Beta(first + 1, second + 1)."""
    first, second = _leading_two(votes)
    tosses = first + second + 1
    return sum(math.comb(tosses, heads) for heads in range(first + 1)) / (1 << tosses)


def dirichlet_confidence(votes: Sequence[int]) -> float:
    """Chance that the leader is the likeliest of all answers seen: their shares are Dirichlet(votes + 1).

    An answer that nobody has given yet stands for the second where all agree. Shares of a Dirichlet distribution are
    Gamma variables over their sum, so this is the chance that the leader's is the largest: one integral over its value.
    """
    first, *others = votes if len(votes) > 1 else _leading_two(votes)
    width = (first + 1 + 10 * (math.sqrt(first + 1) + 1)) / _POINTS  # up to 10 standard deviations and more
    total = 0.0
    for point in range(_POINTS):
        x = (point + 0.5) * width
        densities = [math.exp(k * math.log(x) - x - math.lgamma(k + 1)) for k in range(first + 1)]  # Gamma(k + 1) at x
        below = [1 - above for above in accumulate(densities)]  # chances that Gamma(k + 1) is below x
        total += densities[first] * math.prod(below[count] for count in others)
    return total * width


def answer_posteriors(groups: Sequence[int | None], confidences: Sequence[float | None]) -> dict[int, float]:
    """Chance of each answer seen to be the right one, as if a vote's confidence were its chance to be right.

    A vote of confidence c gives the likelihood c to its own answer and shares 1 - c between the others: those seen and
    one that nobody has given yet, which has the rest of the chance. Votes without an answer or a confidence do not
    count.
    """
    votes = [(g, c) for g, c in zip(groups, confidences, strict=True) if g is not None and c is not None]
    answers = dict.fromkeys(group for group, _ in votes)
    likelihoods = []
    for answer in (*answers, None):
        logs = []
        for group, confidence in votes:
            sure = min(max(confidence, _UNSURE), 1 - _UNSURE)
            logs.append(math.log(sure if group == answer else (1 - sure) / len(answers)))
        likelihoods.append(math.fsum(logs))
    highest = max(likelihoods)
    weights = [math.exp(likelihood - highest) for likelihood in likelihoods]
    return {answer: weight / math.fsum(weights) for answer, weight in zip(answers, weights, strict=False)}


def _leading_two(votes: Sequence[int]) -> tuple[int, int]:
    first, second = (*votes[:2], 0, 0)[:2]
    return first, second

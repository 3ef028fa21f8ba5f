"""From the scores of the steps to one score of the whole (Snell et al., arXiv 2408.03314, appendix E)."""

import math
from collections.abc import Sequence
from enum import StrEnum


class Aggregation(StrEnum):
    last = "last"
    min = "min"
    prod = "prod"
    mean = "mean"


def aggregate(scores: Sequence[float], how: Aggregation) -> float | None:
    """One score from the step scores in order; None when there are none."""
    if not scores:
        return None
    match how:
        case Aggregation.last:
            return scores[-1]
        case Aggregation.min:
            return min(scores)
        case Aggregation.prod:
            return math.prod(scores)
        case Aggregation.mean:
            return math.fsum(scores) / len(scores)

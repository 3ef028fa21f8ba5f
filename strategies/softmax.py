"""From values to weights."""

import math
from collections.abc import Sequence


def softmax(values: Sequence[float], temperature: float) -> list[float]:
    """Weights in proportion to exp(value / temperature) that add up to 1. A value of -inf (no score) weighs nothing,
    unless all are."""
    top = max(values)
    if top == -math.inf:
        return [1 / len(values)] * len(values)
    shares = [math.exp((value - top) / temperature) for value in values]
    total = math.fsum(shares)
    return [share / total for share in shares]

"""When which kind of fault strikes: drawn from a seed. Pure."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

_WAIT_S = (0.3, 4.0)  # between a recovery and the next fault
_LASTS_S = (1.0, 9.0)  # of a fault that ends by itself


@dataclass(frozen=True, slots=True, kw_only=True)
class Strike:
    """One fault to come."""

    kind: str
    wait_s: float  # before it
    lasts_s: float  # where it ends by itself
    choice: int  # which of those that could be struck: modulo their number


def schedule(kinds: Sequence[str], num: int, seed: int) -> list[Strike]:
    """So many, all kinds in turn, each time in another order: how often two kinds strike differs by one at most."""
    draw = random.Random(seed)
    strikes: Iterator[str] = (kind for _ in range(num) for kind in draw.sample(kinds, len(kinds)))
    return [
        Strike(
            kind=next(strikes),
            wait_s=draw.uniform(*_WAIT_S),
            lasts_s=draw.uniform(*_LASTS_S),
            choice=draw.getrandbits(16),
        )
        for _ in range(num)
    ]

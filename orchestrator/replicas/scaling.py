"""How many replicas a pool should have, and which of its places have them: pure decisions.

Work is counted in replicas: 0.5 is half of what one replica runs at a time. More replicas are wanted when work has
waited for some time, fewer when fewer would have been enough for much longer. Growing is quick and shrinking slow,
because a replica costs minutes to start and little to keep for a while.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import ceil

from orchestrator.core.config import PolicyConfig, VerifierConfig
from orchestrator.replicas.members import Load

_MOST_GROWTH = 2  # times the replicas that serve, at once


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaling:
    """Between which numbers a pool moves, and how fast."""

    least: int
    most: int
    up_after_s: float = 15.0  # for so long work must have waited
    down_after_s: float = 300.0  # for so long fewer must have been enough
    drain_timeout_s: float = 120.0  # for a replica that is to be removed to finish what it has


def scaling_of(config: PolicyConfig | VerifierConfig) -> Scaling | None:
    """None: the number is fixed."""
    if config.max_replicas is None:
        return None
    return Scaling(least=config.min_replicas or 1, most=config.max_replicas)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """How many replicas the work of one moment called for."""

    at: float
    replicas: int


def needed(load: Load, serving: int) -> int:
    """So many replicas for all the work of a pool, of which `serving` serve. Work that waits calls for one more at
    least: it may fit none of them, however little it is."""
    replicas = ceil(load.running + load.waiting)
    if load.waiting > 0:
        replicas = min(max(replicas, serving + 1), _MOST_GROWTH * max(1, serving))
    return replicas


def wanted(samples: Sequence[Sample], now: float, current: int, scaling: Scaling) -> int:
    """How many to have from now on. `samples`: the last ones, the oldest first, from the start of the time that is
    looked back on; without such an old one nothing changes."""
    more = _since(samples, now - scaling.up_after_s)
    fewer = _since(samples, now - scaling.down_after_s)
    target = current
    if more and (least := min(sample.replicas for sample in more)) > current:
        target = least
    elif fewer and (most := max(sample.replicas for sample in fewer)) < current:
        target = most
    return max(scaling.least, min(target, scaling.most))


def kept(samples: Sequence[Sample], now: float, scaling: Scaling) -> list[Sample]:
    """Those that later decisions look at: one that is older than all of them, and those after it."""
    longest = now - max(scaling.up_after_s, scaling.down_after_s)
    old = [sample for sample in samples if sample.at <= longest]
    return [*old[-1:], *samples[len(old) :]]


def _since(samples: Sequence[Sample], begin: float) -> Sequence[Sample]:
    """Those after `begin`, and the one that held then; none where nothing is known of then."""
    before = [sample for sample in samples if sample.at <= begin]
    return [before[-1], *samples[len(before) :]] if before else []


class Stage(IntEnum):
    """How far the replica of a place is, the best first."""

    SERVES = 0
    DRAINS = 1  # finishes what it has, and gets nothing new
    LOADS = 2  # it has its room in the cluster
    WAITS = 3  # for room in the cluster
    IDLE = 4  # none is wanted
    EMPTY = 5  # its restarts are used up


def chosen(stages: Sequence[Stage], number: int, loads: Sequence[float]) -> frozenset[int]:
    """The places that should have a replica. What serves stays; of several at one stage, those with the most to do
    and then the first ones do. So a replica that drains is taken back where another one was lost."""
    order = sorted(range(len(stages)), key=lambda index: (stages[index], -loads[index], index))
    return frozenset(order[:number])

"""What a driver's event loop costs, from measured cells: a fit that can't be negative, and how far it is off."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import median

import numpy as np

from experiments.bench.control_plane.simulation import LoopCosts


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """A strategy in a cell, each figure per step."""

    strategy: str
    replicas: int
    loop_s: float  # of the event loops of the drivers
    calls: float  # to replicas
    looks: float  # at replicas, to place requests and readings


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Fitted costs, by strategy: those of a call and of a look are the same for all."""

    costs: Mapping[str, LoopCosts]

    def error(self, point: Point) -> float:
        """Fitted over measured, less 1."""
        fitted = self.costs[point.strategy].of_step(calls=point.calls, looks=point.looks)
        return fitted / point.loop_s - 1


def calibrate(points: Sequence[Point]) -> Calibration:
    """The costs with the least squared relative errors."""
    strategies = sorted({point.strategy for point in points})
    rows = [[*(float(p.strategy == name) for name in strategies), p.calls, p.looks] for p in points]
    measured = np.array([point.loop_s for point in points])
    found = _non_negative(np.array(rows) / measured[:, None])
    *steps, call_s, look_s = found
    return Calibration(
        costs={
            name: LoopCosts(step_s=step_s, call_s=call_s, look_s=look_s)
            for name, step_s in zip(strategies, steps, strict=True)
        }
    )


def held_out_error(points: Sequence[Point]) -> float:
    """The median absolute error at the cells of the largest pool, which the fit has not seen."""
    largest = max(point.replicas for point in points)
    fitted = calibrate([point for point in points if point.replicas < largest])
    return median(abs(fitted.error(point)) for point in points if point.replicas == largest)


def _non_negative(rows: np.ndarray) -> list[float]:
    """x >= 0 with the least |rows @ x - 1|. With so few columns each choice of those above 0 is tried."""
    num = rows.shape[1]
    best, least = [0.0] * num, float("inf")
    for size in range(1, num + 1):
        for columns in combinations(range(num), size):
            solved = np.linalg.lstsq(rows[:, columns], np.ones(len(rows)), rcond=None)[0]
            off = float(np.sum((rows[:, columns] @ solved - 1) ** 2))
            if np.all(solved >= 0) and off < least:
                least, best = off, [0.0] * num
                for column, value in zip(columns, solved, strict=True):
                    best[column] = float(value)
    return best

import random

import pytest

from experiments.bench.control_plane.calibration import Point, calibrate, held_out_error
from experiments.bench.control_plane.simulation import LoopCosts

COSTS = {
    "beam": LoopCosts(step_s=0.5e-3, call_s=0.2e-3, look_s=1e-6),
    "plain": LoopCosts(step_s=0.3e-3, call_s=0.2e-3, look_s=1e-6),
}


def points(noise: float, costs=COSTS) -> list[Point]:
    rng = random.Random(0)
    made = []
    for strategy, of in costs.items():
        for replicas in (4, 16, 64, 256):
            calls, looks = rng.uniform(0.2, 3), replicas * (1.25 if strategy == "beam" else 0.4)
            loop_s = of.of_step(calls=calls, looks=looks) * rng.uniform(1 - noise, 1 + noise)
            made.append(Point(strategy=strategy, replicas=replicas, loop_s=loop_s, calls=calls, looks=looks))
    return made


def test_costs_that_made_the_points_are_found_again():
    found = calibrate(points(noise=0.0))
    for name, costs in COSTS.items():
        assert found.costs[name].step_s == pytest.approx(costs.step_s)
        assert found.costs[name].call_s == pytest.approx(costs.call_s)
        assert found.costs[name].look_s == pytest.approx(costs.look_s)
    assert held_out_error(points(noise=0.0)) == pytest.approx(0.0, abs=1e-9)


def test_errors_are_those_of_the_points():
    noisy = points(noise=0.1)
    found = calibrate(noisy)
    assert all(abs(found.error(point)) < 0.2 for point in noisy)
    assert held_out_error(noisy) < 0.3


def test_no_cost_is_negative():
    free = {"beam": LoopCosts(step_s=0.5e-3, call_s=0.0, look_s=0.0)}
    found = calibrate(points(noise=0.2, costs=free)).costs["beam"]
    assert min(found.step_s, found.call_s, found.look_s) >= 0

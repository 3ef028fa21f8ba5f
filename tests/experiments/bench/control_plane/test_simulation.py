"""The simulation against what is known in closed form."""

from dataclasses import replace
from math import exp, factorial

import pytest

from experiments.bench.control_plane.simulation import LoopCosts, System, exponential, fixed, pace_s, simulate

STEP = LoopCosts(step_s=0.01, call_s=0.0, look_s=0.0)
# a driver that is alone, and no time but that of writing and of the event loop
BARE = System(
    drivers=1,
    replicas=400,
    verifiers=400,
    sequences=10,
    write_s=0.2,
    read_s=0.0,
    trip_s=0.0,
    writing=exponential,
    work=exponential,
)


def idle_share(sequences: int, ratio: float) -> float:
    """Of one server for so many customers, who are away for an exponential time: M/M/1//N, also known as the machine
    repairman. `ratio`: service over absence."""
    return 1 / sum(factorial(sequences) / factorial(sequences - n) * ratio**n for n in range(sequences + 1))


@pytest.mark.parametrize("sequences", [2, 20])
def test_the_event_loop_is_as_busy_as_a_server_with_so_many_customers_is(sequences):
    found = simulate(replace(BARE, sequences=sequences), STEP, seconds=150.0)
    busy = 1 - idle_share(sequences, 0.01 / 0.2)
    assert found.busy == pytest.approx(busy, rel=0.04)
    assert found.steps_per_s == pytest.approx(busy / 0.01, rel=0.04)
    assert found.step_s == pytest.approx(sequences * 0.01 / busy, rel=0.04)  # Little's law


def test_replies_carry_what_came_up_at_their_pace():
    """Steps come from a replica like a Poisson stream, and a reply goes out once there is one, at its pace."""
    system = replace(BARE, replicas=1, verifiers=400, sequences=100, write_s=1.0)
    free = LoopCosts(step_s=0.0, call_s=0.0, look_s=0.0)
    found = simulate(system, free, seconds=60.0)
    per_pace = found.steps_per_s * pace_s(100)
    assert found.calls["poll"] == pytest.approx(1 / (per_pace + exp(-per_pace)), rel=0.05)


def test_drivers_share_the_sequences():
    one, two = (simulate(replace(BARE, drivers=n, sequences=10 * n), STEP, seconds=20.0) for n in (1, 2))
    assert two.steps_per_s == pytest.approx(2 * one.steps_per_s) and two.busy == one.busy


def test_what_grows_with_the_pool_costs_the_loop_its_time():
    looking = LoopCosts(step_s=0.01, call_s=0.0, look_s=0.00001)
    found = simulate(replace(BARE, sequences=200, work=fixed), looking, seconds=20.0)
    assert found.busy == pytest.approx(1.0, abs=0.01)
    assert found.steps_per_s == pytest.approx(1 / (0.01 + 800 * 0.00001), rel=0.05)


def test_sequences_that_wait_for_each_other_are_as_slow_as_the_slowest():
    """Nothing takes time but writing: a round of n is the largest of n exponential times, 1 + 1/2 + ... + 1/n."""
    free = LoopCosts(step_s=0.0, call_s=0.0, look_s=0.0)
    alone = replace(BARE, sequences=64, work=fixed)
    for together in (1, 16):
        found = simulate(replace(alone, together=together, siblings=1), free, seconds=40.0)
        round_s = 0.2 * sum(1 / n for n in range(1, together + 1))
        assert found.step_s == pytest.approx(round_s, rel=0.05)
        assert found.steps_per_s == pytest.approx(64 / round_s, rel=0.05)


def test_siblings_share_the_call_that_asks_for_them():
    free = LoopCosts(step_s=0.0, call_s=0.0, look_s=0.0)
    system = replace(BARE, sequences=64, together=16, siblings=4, work=fixed)
    found = simulate(system, free, seconds=10.0)
    assert found.calls["update"] == pytest.approx(1 / 4, rel=0.05) and found.calls["read"] > 1 / 4

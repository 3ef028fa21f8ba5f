"""Facts about a large cluster, as far as the arithmetic goes without the simulation."""

import pytest

from experiments.bench.control_plane.large import MOST_BUSY, Cluster, Overheads, drivers_needed, told
from experiments.bench.control_plane.simulation import LoopCosts


def test_a_cluster_needs_the_drivers_whose_event_loops_have_the_time():
    """Without calls that grow with the pool, a step's cost alone says how many."""
    cluster = Cluster(replicas=20, sequences_per_replica=100, together=1)
    assert cluster.most_steps_per_s == 1200
    drivers, found = drivers_needed(cluster, LoopCosts(step_s=0.004, call_s=0.0, look_s=0.0), seconds=3.0)
    assert drivers == pytest.approx(1200 * 0.004 / MOST_BUSY, abs=1.5)
    assert found.busy <= MOST_BUSY and found.steps_per_s == pytest.approx(1200, rel=0.1)


def test_what_grows_with_the_pool_takes_more_drivers():
    cluster = Cluster(replicas=20, sequences_per_replica=50)
    few, _ = drivers_needed(cluster, LoopCosts(step_s=0.004, call_s=0.0, look_s=0.0), seconds=2.0)
    many, _ = drivers_needed(cluster, LoopCosts(step_s=0.004, call_s=0.001, look_s=0.0001), seconds=2.0)
    assert many > few


def test_it_says_what_one_writer_and_one_keeper_are_asked_for():
    cluster = Cluster(replicas=20, sequences_per_replica=50, together=1)
    costs = LoopCosts(step_s=0.001, call_s=0.0, look_s=0.0)
    found = told(cluster, 96, costs, Overheads(row_s=0.01, watch_s=0.002, member_bytes=2**20))
    assert found["writer_busy"] == pytest.approx(found["steps_per_s"] / 96 * 0.01, rel=0.01)
    assert found["steps_per_s_of_a_writer"] == 9600
    assert found["keeper_busy"] == pytest.approx(0.04)
    assert found["mib_sent_per_restart"] == 2 * found["drivers"] * 20

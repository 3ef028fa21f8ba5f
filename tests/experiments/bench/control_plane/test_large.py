"""Facts about a large cluster, as far as the arithmetic goes without the simulation."""

import pytest

from experiments.bench.control_plane.large import MOST_BUSY, Cluster, drivers_needed
from experiments.bench.control_plane.simulation import LoopCosts


def test_a_cluster_needs_the_drivers_whose_event_loops_have_the_time():
    """Without calls that grow with the pool, a step's cost alone says how many."""
    cluster = Cluster(replicas=20, sequences_per_replica=100)
    assert cluster.most_steps_per_s == 1200
    drivers, found = drivers_needed(cluster, LoopCosts(step_s=0.004, call_s=0.0, look_s=0.0), seconds=4.0)
    assert drivers == pytest.approx(1200 * 0.004 / MOST_BUSY, abs=1.5)
    assert found.busy <= MOST_BUSY and found.steps_per_s == pytest.approx(1200, rel=0.1)


def test_what_grows_with_the_pool_takes_more_drivers():
    cluster = Cluster(replicas=20, sequences_per_replica=50)
    few, _ = drivers_needed(cluster, LoopCosts(step_s=0.004, call_s=0.0, look_s=0.0), seconds=3.0)
    many, _ = drivers_needed(cluster, LoopCosts(step_s=0.004, call_s=0.001, look_s=0.0001), seconds=3.0)
    assert many > few

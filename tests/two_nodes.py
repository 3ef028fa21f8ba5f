"""A Ray cluster of two nodes on this machine. A process that has no other Ray may use it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray
from ray._private import ray_constants
from ray.cluster_utils import Cluster


@contextmanager
def two_nodes(**second: Any) -> Iterator[tuple[Cluster, Any]]:
    """The cluster, and its second node, which is started with these parameters."""
    assert not ray.is_initialized()
    patch = pytest.MonkeyPatch()
    patch.setattr(ray_constants, "ENABLE_RAY_CLUSTER", True)  # an earlier local Ray in this process switched it off
    head = {"num_cpus": 2, "include_dashboard": False, "labels": {"kind": "head"}}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    try:
        yield cluster, cluster.add_node(num_cpus=2, **second)
    finally:
        cluster.shutdown()
        patch.undo()

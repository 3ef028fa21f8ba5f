"""A Ray cluster of several nodes on this machine, on loopback alone."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil

from orchestrator.cluster import connected, join_local, set_environment
from orchestrator.core.config import RayConfig
from orchestrator.core.errors import ReplicaError

log = logging.getLogger(__name__)

_START_ATTEMPTS = 4


@contextmanager
def several_nodes(num: int) -> Iterator[None]:
    """This process is connected to the cluster for as long as the context lasts. It must have no other Ray. Raises
    ReplicaError when the nodes do not start."""
    set_environment()
    join_local()  # before its nodes start: so do they
    from ray.cluster_utils import Cluster

    cluster = Cluster()
    try:
        for _ in range(num):
            _add_node(cluster)
        with connected(RayConfig(address=cluster.address), replicas=0):
            yield
    finally:
        cluster.shutdown()


def _add_node(cluster: Any) -> None:
    """Ray gives a node 30 s to start, which a busy machine may exceed: so again."""
    for attempt in range(1, _START_ATTEMPTS + 1):
        before = set(psutil.Process().children(recursive=True))
        try:
            cluster.add_node(num_cpus=1, include_dashboard=False, include_log_monitor=False, no_monitor=True)
            return
        except Exception as error:  # Ray raises no narrower type
            left = set(psutil.Process().children(recursive=True)) - before
            for process in left:
                if process.is_running():
                    process.kill()
            psutil.wait_procs(left, timeout=10)
            log.warning("ray: attempt %d of %d to start a node failed: %s", attempt, _START_ATTEMPTS, error)
            failed = error
    raise ReplicaError(f"ray: no node could be started in {attempt} attempts: {failed}") from failed

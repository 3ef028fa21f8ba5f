"""Several Ray nodes on this machine. The first one stays; the others may be killed and replaced."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from experiments.bench.faults.processes import ProcessId, tree
from orchestrator.core.errors import ReplicaError

_ATTEMPTS = 5
_CPUS = 2
_STORE = 80 * 2**20  # bytes; Ray wants at least 75 MiB
_HEALTH = {  # a node that does not answer is dead after about 8 s
    "health_check_initial_delay_ms": 2000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 3,
}


class Nodes:
    """Owner of the cluster. Its calls take seconds and block."""

    def __init__(self, cluster: Any) -> None:
        """Use `several_nodes`."""
        self._cluster = cluster

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    def others(self) -> Sequence[Any]:
        """All but the first, in order."""
        return sorted(self._cluster.worker_nodes, key=lambda node: str(node.node_id))

    def add(self) -> None:
        """Raises ReplicaError."""
        _started(lambda: self._cluster.add_node(num_cpus=_CPUS, object_store_memory=_STORE))

    def remove(self, node: Any) -> None:
        """What is left of it."""
        self._cluster.remove_node(node, allow_graceful=False)


def processes_of(node: Any) -> tuple[ProcessId, ...]:
    """Its raylet first, then all that it started."""
    [raylet] = node.all_processes["raylet"]
    return tree(raylet.process.pid)


def _started(start: Callable[[], Any]) -> Any:
    """Ray gives a node 30 s to start, which a busy machine may exceed: so again. Raises ReplicaError."""
    before = set(tree(os.getpid()))
    for _ in range(_ATTEMPTS):
        try:
            return start()
        except Exception as error:  # Ray raises no narrower type
            why = error
            for process in set(tree(os.getpid())) - before:
                process.send(signal.SIGKILL)
    raise ReplicaError(f"bench: a node did not start in {_ATTEMPTS} attempts: {why}")


@contextmanager
def several_nodes(num: int, folder: Path) -> Iterator[Nodes]:
    """So many, whose files are in the folder."""
    os.environ["RAY_TMPDIR"] = str(folder)  # where Ray notes a cluster for others, too
    from ray.cluster_utils import Cluster

    head = {"num_cpus": _CPUS, "object_store_memory": _STORE, "include_dashboard": False, "_system_config": _HEALTH}
    cluster = _started(lambda: Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False))
    try:
        nodes = Nodes(cluster)
        for _ in range(num - 1):
            nodes.add()
        yield nodes
    finally:
        cluster.shutdown()
        del os.environ["RAY_TMPDIR"]

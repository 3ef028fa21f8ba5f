"""Connects to Ray: a local one of this process, or a running cluster by address."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.config import RayConfig
from orchestrator.core.errors import ReplicaError, UserError

_START_ATTEMPTS = 4


@contextmanager
def connected(config: RayConfig, replicas: int) -> Iterator[None]:
    """A Ray connection for as long as the context lasts; a local Ray has room for `replicas` actors.

    A Ray that this process is already connected to is used and left as it is. Raises UserError when there is no
    cluster at the address, ReplicaError when a local Ray does not start.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no network
    os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's own 15 starves the engine beside anything else
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        if config.address is None:
            _start_local(config.num_cpus or max(os.cpu_count() or 1, replicas))
        else:
            ray.init(address=config.address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError) as error:
        raise UserError(f"ray.address: no Ray cluster at {config.address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _start_local(num_cpus: int) -> None:
    """Starts Ray in this process's care. It gives its own parts 30 s, which a busy machine may exceed: so again."""
    import ray

    logging.getLogger("ray").setLevel(logging.ERROR)  # it warns of its own default, token authentication
    for attempt in range(1, _START_ATTEMPTS + 1):
        try:
            ray.init(
                num_cpus=num_cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                configure_logging=False,
            )
            return
        except Exception as error:  # Ray raises no narrower type
            ray.shutdown()
            if attempt == _START_ATTEMPTS:
                reason = str(error).splitlines()[0]
                raise ReplicaError(f"ray: no local Ray could be started in {attempt} attempts: {reason}") from error

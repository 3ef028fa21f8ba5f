"""Connects to Ray: a local one of this process, or a running cluster by address."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from orchestrator.config import RayConfig
from orchestrator.core.errors import UserError


@contextmanager
def connected(config: RayConfig, replicas: int) -> Iterator[None]:
    """A Ray connection for as long as the context lasts; a local Ray has room for `replicas` actors.

    A Ray that this process is already connected to is used and left as it is. Raises UserError when there is no
    cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no network
    import ray

    if ray.is_initialized():
        yield
        return
    try:
        if config.address is None:
            cpus = config.num_cpus or max(os.cpu_count() or 1, replicas)
            ray.init(
                num_cpus=cpus,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="error",
                configure_logging=False,
            )
        else:
            ray.init(address=config.address, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError) as error:
        raise UserError(f"ray.address: no Ray cluster at {config.address!r}: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()

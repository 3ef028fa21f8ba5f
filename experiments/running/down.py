"""Composition of `headrace down`: ends a named pool and all that it started."""

import asyncio
import logging

from orchestrator.core.config import RayConfig
from orchestrator.pools import local_ray
from orchestrator.pools.record import PoolRecord, find_record, remove_record

log = logging.getLogger(__name__)


def down(name: str | None) -> PoolRecord:
    """Raises UserError where no such pool is known, or its Ray is of another version."""
    record = find_record(name)
    if record.pid is None:
        _leave_ray(record)
    forget(record)
    return record


def forget(record: PoolRecord) -> None:
    """Ends the pool's local Ray, and with it the replicas; then the record: if that is interrupted, `down` still finds
    it."""
    if record.pid is not None:
        local_ray.end(record.pid)
    remove_record(record.name)


def _leave_ray(record: PoolRecord) -> None:
    """Ends the keeper and the replicas on a Ray that stays. Raises UserError for a Ray of another version."""
    from orchestrator.cluster import NoCluster, connected  # takes seconds to import, which a local Ray needs not
    from orchestrator.pools.service import close_pool

    try:
        with connected(RayConfig(address=record.address), 0):
            asyncio.run(close_pool(record.name))
    except NoCluster as error:
        why = str(error).splitlines()[0]
        log.warning("pool %s: its Ray has ended or can't be reached, so it is only forgotten: %s", record.name, why)

"""A named pool of null engines and null verifiers, many of them in one process."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from experiments.bench.control_plane.shared_process import SharedBlueprint, create_process
from orchestrator.pools.spec import PoolSpec
from orchestrator.ray_calls import kill_actor
from orchestrator.replicas.blueprint import Blueprint


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSpec(PoolSpec):
    """A pool whose replicas go into these processes, by name, one after the other in turn."""

    processes: Sequence[str]

    def blueprints(self) -> dict[str, Blueprint]:
        made = PoolSpec.blueprints(self)
        return {part: SharedBlueprint.of(blueprint, self.processes) for part, blueprint in made.items()}


@asynccontextmanager
async def processes_on_nodes(num: int) -> AsyncIterator[dict[str, Any]]:
    """So many, by name, spread over the nodes, for as long as the context lasts."""
    names = [f"replicas/{uuid.uuid4().hex}" for _ in range(num)]
    created = {name: create_process(name, scheduling_strategy="SPREAD") for name in names}
    try:
        yield created
    finally:
        for process in created.values():
            kill_actor(process)

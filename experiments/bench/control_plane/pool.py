"""A named pool of null engines and null verifiers, many of them in one process."""

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
    """A pool whose replicas go into these processes, one after the other in turn."""

    processes: Sequence[Any]

    def blueprints(self) -> dict[str, Blueprint]:
        made = PoolSpec.blueprints(self)
        return {part: SharedBlueprint.of(blueprint, self.processes) for part, blueprint in made.items()}


@asynccontextmanager
async def processes_on_nodes(num: int) -> AsyncIterator[list[Any]]:
    """So many, spread over the nodes, for as long as the context lasts."""
    created = [create_process(scheduling_strategy="SPREAD") for _ in range(num)]
    try:
        yield created
    finally:
        for process in created:
            kill_actor(process)

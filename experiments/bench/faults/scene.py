"""What faults strike: a named pool that a run with several drivers and an endpoint use, perhaps over several nodes."""

import asyncio
import random
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments.bench.faults import judge
from experiments.bench.faults.disks import Disk
from experiments.bench.faults.endpoint import Asker
from experiments.bench.faults.nodes import Nodes
from experiments.bench.faults.processes import ProcessId, titled
from experiments.bench.faults.run import DisturbedRun
from experiments.bench.faults.server import ScriptedEngine
from experiments.running.run import Plan
from orchestrator.core.errors import HeadraceError, ReplicaError
from orchestrator.pools.service import close_pool, create_pool_actor, pool_actor
from orchestrator.pools.spec import PoolSpec
from orchestrator.pools.status import ReplicaRow
from orchestrator.ray_calls import answered, submit

_ANSWER_S = 5.0  # for the keeper to say how the pool is
_START_S = 300.0
_DRIVER, _ENDPOINT = "ray::Driver", "ray::ServeReplica"


@dataclass(slots=True, kw_only=True)
class Scene:
    """What there is to strike. None: there is no such thing."""

    spec: PoolSpec
    orders: Path  # folder of the verifier's
    engine: ScriptedEngine | None = None
    nodes: Nodes | None = None
    results: Disk | None = None
    shm: Disk | None = None
    asker: Asker | None = None
    run: DisturbedRun | None = None  # the one under way

    async def replicas(self, part: str | None = None) -> Sequence[ReplicaRow]:
        """Those that answer. Raises ReplicaError where the keeper does not."""
        keeper = pool_actor(self.spec.name)
        if keeper is None:
            raise ReplicaError(f"bench: the pool {self.spec.name} is gone")
        rows, _ = await answered(submit(keeper.status.remote), "bench: the keeper", _ANSWER_S)
        return [row for row in rows if part in (None, row.part) and row.tokens is not None]

    async def keeper_pid(self) -> int:
        keeper = pool_actor(self.spec.name)
        assert keeper is not None
        pid: int = await answered(submit(keeper.pid.remote), "bench: the keeper", _ANSWER_S)
        return pid

    def drivers(self) -> Sequence[int]:
        return titled(_DRIVER)

    def endpoint(self) -> Sequence[int]:
        return titled(_ENDPOINT)

    async def whole(self, without: Collection[ProcessId] = ()) -> bool:
        """Whether everything serves, in other processes than these."""
        gone = {process.pid for process in without}
        try:
            replicas = await self.replicas()
        except HeadraceError:
            return False
        wanted = sum(made.replicas for made in self.spec.blueprints().values())
        if len(replicas) != wanted or gone & {replica.pid for replica in replicas}:
            return False
        if self.run is not None and not self.run.over:
            if len(set(self.drivers()) - gone) != self.run.plan.config.drivers:
                return False
        return self.asker is None or await self.asker.served()

    async def idle(self) -> Sequence[str]:
        """What replicas still hold, although nobody asks anything."""
        try:
            rows = await self.replicas()
        except HeadraceError as error:
            return [str(error)]
        return [
            f"{row.part} {row.index}: {name} {value}"
            for row in rows
            for name in ("running", "waiting", "states")
            if (value := getattr(row, name))
        ]


@asynccontextmanager
async def pool_of(plan: Plan, name: str, orders: Path) -> AsyncIterator[PoolSpec]:
    """A named pool of what a plan wants, whose verifier obeys orders; leaving ends it."""
    assert plan.verifier is not None
    spec = PoolSpec(
        name=name,
        policy=plan.policy,
        steps=plan.config.steps,
        verifier=judge.obedient(plan.verifier, orders),
        threads=1,
    )
    keeper = create_pool_actor(spec)
    try:
        await answered(submit(keeper.open.remote), f"bench: pool {name}", _START_S)
        yield spec
    finally:
        await close_pool(name)


async def until(condition: Any, within_s: float, pause_s: float = 0.2) -> bool:
    """Whether the coroutine function says so in time."""
    try:
        async with asyncio.timeout(within_s):
            while not await condition():  # noqa: ASYNC110 - other processes set no event
                await asyncio.sleep(pause_s)
    except TimeoutError:
        return False
    return True


def one_of(found: Sequence[Any], choice: int) -> Any:
    return found[random.Random(choice).randrange(len(found))]

"""The kinds of faults. To add one: a class with the methods of `Kind` and a line in `kinds_of`."""

import asyncio
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any, Protocol

import psutil

from experiments.bench.faults import judge
from experiments.bench.faults.disks import Disk
from experiments.bench.faults.nodes import processes_of
from experiments.bench.faults.processes import ProcessId, tree
from experiments.bench.faults.scene import Scene, one_of, until
from orchestrator.policy.open import POLICY_PART
from orchestrator.verifier.open import VERIFIER_PART


@dataclass(frozen=True, slots=True, kw_only=True)
class Struck:
    """What was struck. `gone`: the processes that a recovery replaces."""

    gone: Sequence[ProcessId] = ()
    what: Any = None  # that `end` needs


class NothingStruck(Exception):
    """There was nothing to strike, as after the end of a run."""


class Lasts(Enum):
    """How long a fault does."""

    ONCE = auto()  # there is nothing to end
    FOR_SECONDS = auto()  # for as many as are drawn
    UNTIL_REPLACED = auto()  # until everything has recovered from it


class Kind(Protocol):
    """One kind of fault."""

    @property
    def lasts(self) -> Lasts: ...

    async def strike(self, scene: Scene, choice: int) -> Struck:
        """Raises NothingStruck, and ReplicaError where the keeper does not say what there is."""
        ...

    async def end(self, scene: Scene, struck: Struck) -> None:
        """Leaves the scene as it was, as far as the product does not. Ending twice is allowed."""
        ...


NO_SCORE = "verifier answers NaN"
_OBEYED_S = 20.0

Pids = Callable[[Scene], Awaitable[Sequence[int]]]  # of the processes that may be struck


@dataclass(frozen=True, slots=True)
class Killed:
    """SIGKILL."""

    pids: Pids
    lasts: Lasts = Lasts.ONCE

    async def strike(self, scene: Scene, choice: int) -> Struck:
        processes = tree(one_of(await _some(self.pids, scene), choice))
        processes[0].send(signal.SIGKILL)
        return Struck(gone=processes)

    async def end(self, scene: Scene, struck: Struck) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Stopped:
    """SIGSTOP, and SIGCONT."""

    pids: Pids
    lasts: Lasts

    async def strike(self, scene: Scene, choice: int) -> Struck:
        processes = tree(one_of(await _some(self.pids, scene), choice))
        processes[0].send(signal.SIGSTOP)
        return Struck(gone=processes if self.lasts is Lasts.UNTIL_REPLACED else (), what=processes[0])

    async def end(self, scene: Scene, struck: Struck) -> None:
        struck.what.send(signal.SIGCONT)


@dataclass(frozen=True, slots=True)
class NodeStruck:
    """A node that is not the first. The cluster gets another one afterwards."""

    signum: signal.Signals
    lasts: Lasts = Lasts.UNTIL_REPLACED

    async def strike(self, scene: Scene, choice: int) -> Struck:
        assert scene.nodes is not None
        node = one_of(scene.nodes.others(), choice)
        processes = processes_of(node)
        processes[0].send(self.signum)
        return Struck(gone=processes, what=node)

    async def end(self, scene: Scene, struck: Struck) -> None:
        assert scene.nodes is not None
        if struck.what in scene.nodes.others():
            await asyncio.to_thread(scene.nodes.remove, struck.what)
            await asyncio.to_thread(scene.nodes.add)


@dataclass(frozen=True, slots=True)
class Ordered:
    """The verifier does what it is ordered to, once. `replaced`: its replica is lost by that."""

    order: str
    replaced: bool = False
    lasts: Lasts = Lasts.ONCE

    async def strike(self, scene: Scene, choice: int) -> Struck:
        judge.order(scene.orders, self.order)

        async def obeyed() -> bool:
            return judge.obeyed(scene.orders, self.order) is not None

        if not await until(obeyed, _OBEYED_S, pause_s=0.02):
            judge.withdraw(scene.orders, self.order)
            raise NothingStruck
        pid = judge.obeyed(scene.orders, self.order)
        assert pid is not None
        return Struck(gone=tree(pid) if self.replaced else ())

    async def end(self, scene: Scene, struck: Struck) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Late:
    """The policy's server answers late, each time."""

    late_s: float
    lasts: Lasts = Lasts.FOR_SECONDS

    async def strike(self, scene: Scene, choice: int) -> Struck:
        assert scene.engine is not None
        scene.engine.late_s = self.late_s
        return Struck()

    async def end(self, scene: Scene, struck: Struck) -> None:
        assert scene.engine is not None
        scene.engine.late_s = 0.0


@dataclass(frozen=True, slots=True)
class Dropped:
    """The policy's server drops all its connections."""

    lasts: Lasts = Lasts.ONCE

    async def strike(self, scene: Scene, choice: int) -> Struck:
        assert scene.engine is not None
        scene.engine.drop()
        return Struck()

    async def end(self, scene: Scene, struck: Struck) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Filled:
    """A disk that is full."""

    disk: Callable[[Scene], Disk | None]
    lasts: Lasts = Lasts.FOR_SECONDS

    async def strike(self, scene: Scene, choice: int) -> Struck:
        disk = self.disk(scene)
        assert disk is not None
        disk.fill()
        return Struck(what=disk)

    async def end(self, scene: Scene, struck: Struck) -> None:
        struck.what.free()


def kinds_of(scene: Scene) -> dict[str, Kind]:
    """Those that the scene can have, by name."""
    kinds: dict[str, Kind] = {
        "policy actor killed": Killed(_replicas(POLICY_PART)),
        "policy actor stopped": Stopped(_replicas(POLICY_PART), Lasts.UNTIL_REPLACED),
        "verifier actor killed": Killed(_replicas(VERIFIER_PART)),
        "verifier actor stopped": Stopped(_replicas(VERIFIER_PART), Lasts.UNTIL_REPLACED),
        "driver killed": Killed(_drivers),
        "driver stopped": Stopped(_drivers, Lasts.FOR_SECONDS),
        "keeper killed": Killed(_keeper),
        "keeper stopped": Stopped(_keeper, Lasts.FOR_SECONDS),
        "verifier raises": Ordered(judge.RAISE),
        "verifier hangs": Ordered(judge.HANG, replaced=True),
        NO_SCORE: Ordered(judge.NAN),
    }
    if scene.engine is not None:
        kinds |= {"server late": Late(1.0), "server drops connections": Dropped()}
    else:
        kinds |= {"engine killed": Killed(_engines), "engine stopped": Stopped(_engines, Lasts.UNTIL_REPLACED)}
    if scene.asker is not None:
        kinds |= {
            "Serve replica killed": Killed(_endpoint),
            "Serve replica stopped": Stopped(_endpoint, Lasts.FOR_SECONDS),
        }
    if scene.nodes is not None:
        kinds |= {"node killed": NodeStruck(signal.SIGKILL), "node stopped": NodeStruck(signal.SIGSTOP)}
    if scene.results is not None:
        kinds["results disk full"] = Filled(lambda scene: scene.results)
    if scene.shm is not None:
        kinds["/dev/shm full"] = Filled(lambda scene: scene.shm)
    return kinds


async def _some(pids: Pids, scene: Scene) -> Sequence[int]:
    if not (found := await pids(scene)):
        raise NothingStruck
    return found


def _replicas(part: str) -> Pids:
    async def pids(scene: Scene) -> list[int]:
        return [row.pid for row in await scene.replicas(part) if row.pid is not None]

    return pids


async def _engines(scene: Scene) -> list[int]:
    """The processes below the policy's actors in which engines run."""
    found = [tree(row.pid) for row in await scene.replicas(POLICY_PART) if row.pid is not None]
    return [process.pid for family in found for process in family if "EngineCore" in _title(process)]


async def _drivers(scene: Scene) -> Sequence[int]:
    return scene.drivers()


async def _keeper(scene: Scene) -> list[int]:
    return [await scene.keeper_pid()]


async def _endpoint(scene: Scene) -> Sequence[int]:
    return scene.endpoint()


def _title(process: ProcessId) -> str:
    try:
        return " ".join(psutil.Process(process.pid).cmdline())
    except psutil.NoSuchProcess:
        return ""

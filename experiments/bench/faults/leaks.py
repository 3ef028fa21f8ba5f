"""What is left behind when all has ended: processes, tasks, sockets, shared memory."""

import asyncio
import gc
from collections.abc import Sequence
from dataclasses import dataclass

import psutil

from experiments.bench.faults.disks import SHM
from experiments.bench.faults.processes import ProcessId, marked

_GONE_S = 30.0  # for what has been ended to be gone


@dataclass(frozen=True, slots=True)
class Held:
    """What this process holds at one time."""

    tasks: frozenset[int]
    sockets: int
    shm: frozenset[str]

    @classmethod
    def now(cls) -> "Held":
        gc.collect()  # Ray forgets sockets with which it looked for free ports
        return cls(
            frozenset(map(id, asyncio.all_tasks())),
            len(psutil.Process().net_connections("all")),
            frozenset(path.name for path in SHM.iterdir()),
        )


async def left(before: Held, mark: str) -> Sequence[str]:
    """What was not there before, and does not go away."""
    found: Sequence[str] = ()
    for _ in range(int(_GONE_S)):
        found = _found(before, mark)
        if not found:
            return ()
        await asyncio.sleep(1.0)
    return found


async def alive(processes: Sequence[ProcessId]) -> Sequence[ProcessId]:
    """Those that do not end."""
    for _ in range(int(_GONE_S)):
        if not any(process.lives for process in processes):
            return ()
        await asyncio.sleep(1.0)
    return [process for process in processes if process.lives]


def _found(before: Held, mark: str) -> list[str]:
    now = Held.now()
    found = [f"process {process.pid}" for process in marked(mark)]
    found += [f"{path} in {SHM}" for path in sorted(now.shm - before.shm)]
    if (tasks := len(now.tasks - before.tasks)) > 0:
        found.append(f"{tasks} asyncio tasks")
    if now.sockets > before.sockets:
        found.append(f"{now.sockets - before.sockets} sockets")
    return found

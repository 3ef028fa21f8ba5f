"""CPU seconds of all processes of a bench, by what they are for."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

import psutil

DRIVERS, REPLICAS, KEEPER = "drivers", "replicas", "keeper"
COMMAND = "command"  # this process
RAY = "ray"  # raylets, Ray's control process and everything else
ROLES = (DRIVERS, REPLICAS, KEEPER, COMMAND, RAY)
_TITLES = {"ray::Driver": DRIVERS, "ray::ReplicaProcess": REPLICAS, "ray::PoolActor": KEEPER}


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """CPU seconds since the processes started."""

    by_role: Mapping[str, float]
    by_thread: Mapping[tuple[int, int], float]  # of drivers: (process, thread)

    def since(self, before: "Usage") -> "Usage":
        return Usage(
            by_role={role: used - before.by_role[role] for role, used in self.by_role.items()},
            by_thread={thread: used - before.by_thread.get(thread, 0.0) for thread, used in self.by_thread.items()},
        )

    @property
    def event_loops(self) -> float:
        """Of the busiest thread of each driver, summed: what bounds a driver, since its searches share that thread."""
        busiest: dict[int, float] = {}
        for (pid, _), used in self.by_thread.items():
            busiest[pid] = max(busiest.get(pid, 0.0), used)
        return sum(busiest.values())


def usage() -> Usage:
    """Of this process and all that it started, and they."""
    me = psutil.Process()
    by_role = {role: 0.0 for role in ROLES}
    by_role[COMMAND] = _seconds(me)
    by_thread: dict[tuple[int, int], float] = {}
    for process in me.children(recursive=True):
        try:
            role = role_of(process.cmdline())
            by_role[role] += _seconds(process)
            if role == DRIVERS:
                by_thread |= {(process.pid, one.id): one.user_time + one.system_time for one in process.threads()}
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile
    return Usage(by_role=by_role, by_thread=by_thread)


def role_of(cmdline: list[str]) -> str:
    """Of a process with these arguments; a Ray worker's first one is its title."""
    title = cmdline[0] if cmdline else ""
    return next((role for start, role in _TITLES.items() if title.startswith(start)), RAY)


def memory_bytes() -> dict[str, float]:
    """What a process of a role has for itself alone, in the mean."""
    found: dict[str, list[int]] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            role = role_of(process.cmdline())
            if role != RAY:
                found.setdefault(role, []).append(process.memory_full_info().uss)
        except psutil.NoSuchProcess:
            continue  # it ended meanwhile
    return {role: mean(sizes) for role, sizes in found.items()}


def _seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)

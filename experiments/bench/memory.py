"""How much memory processes hold over time, and whether it grows."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import psutil

_BLOCK = 12  # samples in a row: what is near in time is alike
_NUM_DRAWS = 1000
_MIB = 2**20
SAMPLE_S = 10.0
WARM_SHARE = 1 / 4  # of the time, in which caches fill: it is not looked at


@dataclass(frozen=True, slots=True, kw_only=True)
class Growth:
    """Of one process; the interval is 95%, by a bootstrap over blocks of its residuals."""

    mib: float  # at the end
    mib_per_h: float
    least: float
    most: float


def growth(seconds: Sequence[float], held: Sequence[float]) -> Growth:
    """Of the line through samples of bytes held; at least 3 are wanted."""
    hours, mib = np.asarray(seconds) / 3600, np.asarray(held) / _MIB
    slope, start = np.polyfit(hours, mib, 1)
    fitted = start + slope * hours
    residuals, rng = mib - fitted, np.random.default_rng(0)
    block = min(_BLOCK, len(residuals))
    firsts = rng.integers(0, len(residuals) - block + 1, (_NUM_DRAWS, -(-len(residuals) // block)))
    drawn = residuals[firsts[..., None] + np.arange(block)].reshape(_NUM_DRAWS, -1)[:, : len(residuals)]
    slopes = np.polyfit(hours, (fitted + drawn).T, 1)[0]
    least, most = np.percentile(slopes, [2.5, 97.5])
    return Growth(mib=float(fitted[-1]), mib_per_h=float(slope), least=float(least), most=float(most))


def family(pid: int) -> list[psutil.Process]:
    """The process and all below it."""
    parent = psutil.Process(pid)
    return [parent, *parent.children(recursive=True)]


def held_by(processes: Sequence[psutil.Process]) -> Mapping[int, int]:
    """Bytes that each alone holds (its USS), of those that live."""
    held = {}
    for process in processes:
        try:
            held[process.pid] = process.memory_full_info().uss
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return held


def role(process: psutil.Process) -> str:
    """What it is, in a word or two."""
    command: list[str] = process.cmdline() or [process.name()]
    if command[0].startswith("ray::"):
        return command[0].split(".")[0]
    named = [word for word in command if word.startswith(("experiments.", "orchestrator.")) or word.endswith(".py")]
    return (named or command)[0].rpartition("/")[2]


class MemoryWatch:
    """Owner of the samples of what processes hold under a load. Its figures are of those that live all along, after the
    warm-up."""

    def __init__(self, processes: Sequence[psutil.Process]) -> None:
        self._processes = processes
        self._roles = {process.pid: role(process) for process in processes}
        self._samples: list[tuple[float, Mapping[int, int]]] = []

    def sample(self) -> str:
        """Takes one; says how much all hold."""
        self._samples.append((time.monotonic(), held_by(self._processes)))
        at, held = self._samples[-1]
        return f"{(at - self._samples[0][0]) / 60:.1f} min: {sum(held.values()) / _MIB:.1f} MiB"

    def ratios(self) -> dict[str, float]:
        """What all hold at the end over what they held after the warm-up, by the line through the samples."""
        total, hours = self.total, (self._warm[-1][0] - self._warm[0][0]) / 3600
        slopes = {"ratio": total.mib_per_h, "ratio_min": total.least, "ratio_max": total.most}
        return {name: total.mib / (total.mib - slope * hours) for name, slope in slopes.items()}

    @property
    def total(self) -> Growth:
        pids = self._lasting
        return self._growth(lambda held: sum(held[pid] for pid in pids))

    @property
    def by_process(self) -> dict[str, Growth]:
        return {
            f"{self._roles[pid]} {number}": self._growth(itemgetter(pid)) for number, pid in enumerate(self._lasting)
        }

    @property
    def num_processes(self) -> dict[str, int]:
        return {"before": len(self._warm[0][1]), "after": len(self._warm[-1][1]), "all_along": len(self._lasting)}

    @property
    def _warm(self) -> list[tuple[float, Mapping[int, int]]]:
        return self._samples[round(len(self._samples) * WARM_SHARE) :]

    @property
    def _lasting(self) -> list[int]:
        return [pid for pid in self._roles if all(pid in held for _, held in self._warm)]

    def _growth(self, of: Callable[[Mapping[int, int]], float]) -> Growth:
        return growth([at for at, _ in self._warm], [of(held) for _, held in self._warm])

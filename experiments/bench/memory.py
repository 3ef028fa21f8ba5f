"""How much memory processes hold over time, and whether it grows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import psutil

_BLOCK = 12  # samples in a row: what is near in time is alike
_NUM_DRAWS = 1000
_MIB = 2**20


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

"""What benchmarks share: interleaved repeats, medians with their spread, a description of the machine, the file."""

import json
import os
import platform
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import Any

import psutil


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A ratio to a named baseline of the same run, with the least and the largest of its repeats (or an interval)."""

    ratio: float
    ratio_min: float
    ratio_max: float
    baseline: str
    goal: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)  # the figures behind it


def recorded(found: Mapping[str, Any], baseline: str, goal: str, folder: Path) -> Measured:
    """What was found over the recorded samples of a run."""
    ratios = ("ratio", "ratio_min", "ratio_max")
    return Measured(
        **{name: found[name] for name in ratios},
        baseline=baseline,
        goal=goal,
        settings={"recording": folder.name},
        details={name: value for name, value in found.items() if name not in ratios},
    )


def ratio_of(ours: Sequence[float], baseline: Sequence[float]) -> dict[str, float]:
    """Median, least and largest of the ratios of repeats that ran beside each other."""
    ratios = [a / b for a, b in zip(ours, baseline, strict=True)]
    return {"ratio": median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios)}


def spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": median(values), "min": min(values), "max": max(values)}


async def interleave(
    repeats: int, variants: Mapping[str, Callable[[int], Awaitable[float]]], on_repeat: Callable[[str], None]
) -> dict[str, list[float]]:
    """Runs every variant once in each repeat, in turn, the other way round every second time: name -> figures."""
    figures: dict[str, list[float]] = {name: [] for name in variants}
    for repeat in range(repeats):
        for name in variants if repeat % 2 == 0 else reversed(list(variants)):
            figures[name].append(await variants[name](repeat))
            on_repeat(f"{repeat + 1}/{repeats} {name}: {figures[name][-1]:.4g}")
    return figures


def machine() -> dict[str, Any]:
    """What the figures were measured on; no name, no path."""
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(psutil.virtual_memory().total / 2**30),
        "python": platform.python_version(),
        "load_average": os.getloadavg()[0],
    }


def write(name: str, measured: Measured, folder: Path) -> Path:
    """Writes `folder`/NAME.json."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    record = {
        "name": name,
        "ratio": measured.ratio,
        "ratio_min": measured.ratio_min,
        "ratio_max": measured.ratio_max,
        "baseline": measured.baseline,
        "goal": measured.goal,
        "settings": dict(measured.settings),
        "machine": machine(),
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "details": dict(measured.details),
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return path

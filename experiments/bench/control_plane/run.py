"""What a step costs the drivers, the replicas and Ray, and how that grows with the pool and the number of drivers.

Engines and verifiers are null: they answer after a drawn time, which leaves the cores to what is measured.
Cells are repeated in turn. On few cores speed says little about a cluster; CPU seconds per step say what each process
must do, wherever it runs.
"""

from collections.abc import Callable, Sequence
from statistics import median
from typing import Any

from experiments.bench.control_plane.calibration import Point, calibrate, held_out_error
from experiments.bench.control_plane.cell import STRATEGIES, Cell, CellRun, Load, Spent, run_cell
from experiments.bench.control_plane.large import Cluster, drivers_needed, told
from experiments.bench.control_plane.nodes import several_nodes
from experiments.bench.control_plane.usage import COMMAND, KEEPER, ROLES
from experiments.bench.core import Measured, interleave, ratio_of, spread

NODES = 4
QUICK = (Cell(drivers=1, replicas=4), Cell(drivers=1, replicas=64), Cell(drivers=4, replicas=64))
FULL = tuple(Cell(drivers=drivers, replicas=replicas) for drivers in (1, 2, 4) for replicas in (4, 16, 64, 256))
CALLS = ("poll", "update", "read", "release")  # that steps cause


async def measure(
    *,
    repeats: int,
    on_repeat: Callable[[str], None],
    cells: Sequence[Cell] = QUICK,
    load: Load | None = None,
) -> Measured:
    load = load or Load()
    runs: dict[Cell, list[CellRun]] = {cell: [] for cell in cells}

    def runner(cell: Cell) -> Callable[[int], Any]:
        async def run(repeat: int) -> float:
            runs[cell].append(await run_cell(cell, load, repeat))
            return 1000 * _loop_s(runs[cell][-1].spent["beam_search"])

        return run

    with several_nodes(NODES):
        loops = await interleave(repeats, {str(cell): runner(cell) for cell in cells}, on_repeat)
    fewest = min(cells, key=lambda cell: (cell.drivers, cell.replicas))
    most = max((cell for cell in cells if cell.drivers == fewest.drivers), key=lambda cell: cell.replicas)
    points = [_point(cell, name, _of(runs[cell], name), load) for cell in cells for name in STRATEGIES]
    for cell in cells:
        for name in STRATEGIES:
            on_repeat(f"{cell}, {name}: {_line(_of(runs[cell], name))}")
    return Measured(
        **ratio_of(loops[str(most)], loops[str(fewest)]),
        baseline=f"{fewest} with the same load; CPU seconds of the driver's event loop per step of beam search",
        goal="<= 1.5",
        settings={
            "nodes": NODES,
            "processes_of_replicas": load.processes,
            "problems": load.problems,
            "in_flight": load.in_flight,
            "tokens_per_s": load.writing.tokens_per_s,
            "step_tokens": load.writing.step_tokens,
            "solution_steps": load.writing.solution_steps,
            "repeats": repeats,
        },
        details={
            "cells": {str(cell): _cell(runs[cell]) for cell in cells},
            **_model(points),
        },
    )


def _cell(runs: Sequence[CellRun]) -> dict[str, Any]:
    return {
        **{name: _told(_of(runs, name)) for name in STRATEGIES},
        "members_bytes": runs[0].members_bytes,
        "members_s": spread([run.members_s for run in runs]),
    }


def _told(own: Sequence[Spent]) -> dict[str, Any]:
    return {
        "steps": own[0].steps,
        "rows": own[0].rows,
        "steps_per_s": spread([one.steps / one.seconds for one in own]),
        "loop_ms_per_step": spread([1000 * _loop_s(one) for one in own]),
        "cpu_ms_per_step": {
            role: spread([1000 * one.usage.by_role[role] / one.steps for one in own]) for role in ROLES
        },
        "keeper_cpu_ms_per_s": spread([1000 * one.usage.by_role[KEEPER] / one.seconds for one in own]),
        "command_cpu_ms_per_row": spread([1000 * one.usage.by_role[COMMAND] / one.rows for one in own]),
        "calls_per_step": _calls(own),
    }


def _line(own: Sequence[Spent]) -> str:
    told = _told(own)
    cpu = ", ".join(f"{role} {value['median']:.2f}" for role, value in told["cpu_ms_per_step"].items())
    loop, speed = told["loop_ms_per_step"], told["steps_per_s"]
    return (
        f"{speed['median']:.0f} steps/s; event loops {loop['median']:.2f} [{loop['min']:.2f}, {loop['max']:.2f}] ms of "
        f"CPU per step; processes: {cpu}"
    )


def _of(runs: Sequence[CellRun], strategy: str) -> list[Spent]:
    return [run.spent[strategy] for run in runs]


def _calls(own: Sequence[Spent]) -> dict[str, float]:
    return {method: median(one.calls.get(method, 0) / one.steps for one in own) for method in CALLS}


def _point(cell: Cell, name: str, own: Sequence[Spent], load: Load) -> Point:
    requests = 1.0 if name == "beam_search" else 1 / load.writing.solution_steps  # per step
    return Point(
        strategy=name,
        replicas=cell.replicas,
        loop_s=median(_loop_s(one) for one in own),
        calls=sum(_calls(own).values()),
        looks=cell.replicas * requests + cell.verifiers,
    )


def _loop_s(spent: Spent) -> float:
    return spent.usage.event_loops / spent.steps


def _model(points: Sequence[Point]) -> dict[str, Any]:
    """The fitted costs with their errors, and what they say about a large cluster."""
    if len({point.replicas for point in points}) < 3:
        return {}  # too few to tell what grows
    fitted = calibrate(points)
    beam = fitted.costs["beam_search"]
    cluster = Cluster()
    drivers, found = drivers_needed(cluster, beam)
    return {
        "event_loop_us": {
            "step": {name: 1e6 * costs.step_s for name, costs in fitted.costs.items()},
            "call": 1e6 * beam.call_s,
            "look": 1e6 * beam.look_s,
        },
        "error": {
            "median": median(abs(fitted.error(point)) for point in points),
            "max": max(abs(fitted.error(point)) for point in points),
            "held_out": held_out_error(points),
        },
        "simulated": told(cluster, drivers, found),
    }

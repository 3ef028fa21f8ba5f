"""What a step costs the drivers, the replicas and Ray, and how that grows with the pool and the number of drivers.

Engines and verifiers are null: they answer after a drawn time, which leaves the cores to what is measured.
Cells are repeated in turn. On few cores speed says little about a cluster; CPU seconds per step say what each process
must do, wherever it runs.
"""

from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from experiments.bench.control_plane.calibration import Point, calibrate, held_out_error
from experiments.bench.control_plane.cell import BEAM, STRATEGIES, Cell, CellRun, Load, Spent, run_cell
from experiments.bench.control_plane.large import Cluster, Overheads, told
from experiments.bench.control_plane.nodes import several_nodes
from experiments.bench.control_plane.simulation import LoopCosts, System, simulate
from experiments.bench.control_plane.usage import COMMAND, KEEPER, ROLES
from experiments.bench.core import Measured, interleave, ratio_of, spread

NODES = 4
QUICK = (Cell(drivers=1, replicas=4), Cell(drivers=1, replicas=64), Cell(drivers=4, replicas=64))
FULL = tuple(Cell(drivers=drivers, replicas=replicas) for drivers in (1, 2, 4) for replicas in (4, 16, 64, 256))
CALLS = ("poll", "update", "read")  # that steps cause, and somebody waits for


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
        await interleave(repeats, {str(cell): runner(cell) for cell in cells}, on_repeat)
    for cell, own in runs.items():
        for name in STRATEGIES:
            on_repeat(f"{cell}, {name}: {_line(_of(own, name))}")
    return measured_of(runs, load)


def measured_of(runs: Mapping[Cell, Sequence[CellRun]], load: Load) -> Measured:
    """What the cells took: as many runs of each."""
    fewest = min(runs, key=lambda cell: (cell.drivers, cell.replicas))
    most = max((cell for cell in runs if cell.drivers == fewest.drivers), key=lambda cell: cell.replicas)
    loops = {cell: [_loop_s(run.spent["beam_search"]) for run in runs[cell]] for cell in (fewest, most)}
    return Measured(
        **ratio_of(loops[most], loops[fewest]),
        baseline=f"{fewest} with the same load; CPU seconds of the driver's event loop per step of beam search",
        goal="<= 1.5",
        settings={
            "cell": str(most),
            "nodes": NODES,
            "processes_of_replicas": load.processes,
            "problems": load.problems,
            "in_flight": load.in_flight,
            "tokens_per_s": load.writing.tokens_per_s,
            "step_tokens": load.writing.step_tokens,
            "solution_steps": load.writing.solution_steps,
            "repeats": len(runs[fewest]),
        },
        details={"cells": {str(cell): _cell(own) for cell, own in runs.items()}, **_model(runs, load)},
    )


def _cell(runs: Sequence[CellRun]) -> dict[str, Any]:
    return {
        **{name: _told(_of(runs, name)) for name in STRATEGIES},
        "members_bytes": runs[0].members_bytes,
        "members_s": spread([run.members_s for run in runs]),
        "process_mib": {role: round(size / 2**20) for role, size in runs[0].memory_bytes.items()},
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


def _model(runs: Mapping[Cell, Sequence[CellRun]], load: Load) -> dict[str, Any]:
    """The fitted costs with their errors, and what they say about a large cluster."""
    points = [_point(cell, name, _of(own, name), load) for cell, own in runs.items() for name in STRATEGIES]
    if len({point.replicas for point in points}) < 3:
        return {}  # too few to tell what grows
    fitted = calibrate(points)
    beam = fitted.costs["beam_search"]
    steps_per_row = BEAM.n * load.writing.solution_steps
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
        "simulated_cells": {
            str(cell): _simulated(cell, load, beam, _of(own, "beam_search")) for cell, own in runs.items()
        },
        "simulated": told(Cluster(), steps_per_row, beam, _overheads(runs)),
    }


def _simulated(cell: Cell, load: Load, costs: LoopCosts, own: Sequence[Spent]) -> dict[str, float]:
    """Beam search in a measured cell, beside what was measured. The simulation has a core for each event loop."""
    system = System(
        drivers=cell.drivers,
        replicas=cell.replicas,
        verifiers=cell.verifiers,
        sequences=load.in_flight * BEAM.n,
        together=BEAM.n,
        siblings=BEAM.n // BEAM.beam_width,
        write_s=load.writing.step_tokens / load.writing.tokens_per_s,
        read_s=load.reading.call_s,
    )
    found = simulate(system, costs)
    loop_s = costs.of_step(calls=sum(found.calls.values()), looks=cell.replicas + cell.verifiers)
    return {
        "calls_per_step": sum(found.calls.values()),
        "calls_per_step_measured": sum(_calls(own).values()),
        "loop_ms_per_step": 1000 * loop_s,
        "loop_ms_per_step_measured": 1000 * median(map(_loop_s, own)),
        "steps_per_s": found.steps_per_s,
        "steps_per_s_measured": median(one.steps / one.seconds for one in own),
    }


def _overheads(runs: Mapping[Cell, Sequence[CellRun]]) -> Overheads:
    """Of the processes of which there is one each, by the largest cells."""
    most = max(cell.replicas for cell in runs)
    large = [run for cell, own in runs.items() if cell.replicas == most for run in own]
    spent = [one for run in large for one in run.spent.values()]
    return Overheads(
        row_s=median(one.usage.by_role[COMMAND] / one.rows for one in spent),
        watch_s=median(one.usage.by_role[KEEPER] / one.seconds for one in spent) / most,
        member_bytes=large[0].members_bytes / most,
    )

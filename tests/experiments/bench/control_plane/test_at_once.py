"""The benchmark of a driver through pools and Ray counts the steps of its searches and the CPU of its own process."""

from contextlib import nullcontext
from dataclasses import replace

import pytest

from experiments.bench.control_plane import at_once
from experiments.bench.control_plane.cell import BEAM, Cell, CellRun, Load, Spent
from experiments.bench.control_plane.usage import Usage


async def test_figures_are_steps_per_cpu_second_of_the_drivers_process_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def run_cell(cell: Cell, load: Load, seed: int) -> CellRun:
        steps = load.problems * BEAM.n * load.writing.solution_steps
        cpu = {"drivers": 2.0 * (seed + 1), "replicas": 50.0, "keeper": 1.0, "command": 3.0, "ray": 9.0}
        usage = Usage(by_role=cpu, by_thread={(7, 7): 1.5 * (seed + 1), (7, 8): 0.5 * (seed + 1)})
        spent = Spent(steps=steps, rows=load.problems, seconds=10.0, usage=usage, calls={"poll": 30, "read": 45})
        return CellRun(
            spent={"beam_search": spent, "best_of_n": spent}, members_bytes=1, members_s=0.0, memory_bytes={}
        )

    monkeypatch.setattr(at_once, "run_cell", run_cell)
    monkeypatch.setattr(at_once, "several_nodes", nullcontext)
    monkeypatch.setattr(at_once, "LOAD", replace(at_once.LOAD, problems=4))
    lines: list[str] = []
    measured = await at_once.measure(repeats=2, on_repeat=lines.append)
    steps = 4 * 16 * 6
    assert measured.details["beam_search"] == {
        "steps_per_cpu_s": {"median": 0.75 * steps / 2, "min": steps / 4, "max": steps / 2},
        "steps_per_s_of_its_event_loop": {"median": 0.75 * steps / 1.5, "min": steps / 3, "max": steps / 1.5},
        "steps": steps,
        "calls": 75,
    }
    assert (measured.ratio_min, measured.ratio_max) == (steps / 4 / at_once.GOAL, steps / 2 / at_once.GOAL)
    assert len(lines) == 2

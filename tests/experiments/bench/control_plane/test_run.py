"""The smallest cell of the bench, for real: a Ray of several_nodes(2), a keeper, a driver, two replicas."""

import pytest

from experiments.bench.control_plane import run
from experiments.bench.control_plane.cell import Cell, Load
from experiments.bench.control_plane.engine import Writing
from experiments.bench.control_plane.usage import DRIVERS, RAY, REPLICAS, Usage, role_of
from experiments.bench.control_plane.verifier import Reading

SMALL = Load(
    writing=Writing(tokens_per_s=1000, step_tokens=10, solution_steps=3),
    reading=Reading(call_s=0.001),
    problems=4,
    in_flight=2,
    processes=2,
)


@pytest.mark.timeout(280)
async def test_a_cell_says_what_its_steps_cost_and_writes_as_many_as_it_is_given(monkeypatch):
    monkeypatch.setattr(run, "NODES", 2)
    lines = []
    measured = await run.measure(repeats=1, on_repeat=lines.append, cells=[Cell(drivers=1, replicas=2)], load=SMALL)
    assert measured.ratio == 1.0  # of the only cell to itself
    cell = measured.details["cells"]["1 drivers, 2 replicas"]
    for name in ("beam_search", "best_of_n"):
        told = cell[name]
        assert told["steps"] == 4 * 16 * 3 and told["rows"] == 4
        assert told["steps_per_s"]["median"] > 0
        cpu = {role: value["median"] for role, value in told["cpu_ms_per_step"].items()}
        assert cpu["drivers"] > 0 and cpu["replicas"] > 0
        assert 0 < told["loop_ms_per_step"]["median"] <= cpu["drivers"]
        calls = told["calls_per_step"]
        assert 0 < calls["poll"] and 0 < calls["read"] <= 2
    assert cell["members_bytes"] > 0 and set(cell["process_mib"]) == {"drivers", "replicas", "keeper"}
    assert len(lines) == 1 + 2


def test_processes_are_told_apart_by_the_titles_that_ray_gives_them():
    assert role_of(["ray::Driver.solve"]) == DRIVERS
    assert role_of(["ray::ReplicaProcess"]) == REPLICAS
    assert role_of(["ray::IDLE"]) == role_of([]) == role_of(["/path/raylet", "--ray::Driver"]) == RAY


def test_the_event_loop_of_a_driver_is_its_busiest_thread():
    before = Usage(by_role={DRIVERS: 1.0}, by_thread={(1, 1): 5.0, (1, 2): 0.0, (2, 3): 1.0})
    after = Usage(by_role={DRIVERS: 4.5}, by_thread={(1, 1): 5.5, (1, 2): 2.0, (2, 3): 2.0, (2, 4): 0.25})
    used = after.since(before)
    assert used.by_role == {DRIVERS: 3.5} and used.event_loops == 2.0 + 1.0

"""What a step costs a driver through the real pools, sessions, strategies and Ray, where engines answer at once.

`experiments.bench.driver` measures the session alone. Here every thread of the driver's process counts, Ray's included.
"""

from collections.abc import Callable
from typing import Any

from experiments.bench.control_plane.cell import STRATEGIES, Cell, CellRun, Load, run_cell
from experiments.bench.control_plane.engine import Writing
from experiments.bench.control_plane.nodes import several_nodes
from experiments.bench.control_plane.usage import DRIVERS
from experiments.bench.control_plane.verifier import Reading
from experiments.bench.core import Measured, interleave, ratio_of, spread

GOAL = 5000  # steps per CPU second of a driver, of beam search
CELL = Cell(drivers=1, replicas=1)
LOAD = Load(
    writing=Writing(tokens_per_s=1e5, step_tokens=10, delta_tokens=16),
    reading=Reading(call_s=0.0, token_s=0.0),
    problems=64,
    in_flight=64,
    processes=1,
)


async def measure(*, repeats: int, on_repeat: Callable[[str], None]) -> Measured:
    runs: list[CellRun] = []

    async def steps_per_cpu_s(repeat: int) -> float:
        runs.append(await run_cell(CELL, LOAD, repeat))
        return _speeds([runs[-1]], "beam_search")[0]

    with several_nodes(1):
        await interleave(repeats, {"beam_search": steps_per_cpu_s}, on_repeat)
    return Measured(
        **ratio_of(_speeds(runs, "beam_search"), [GOAL] * repeats),
        baseline=f"{GOAL} steps of beam search per CPU second of a driver, with engines that answer at once",
        goal=">= 1",
        settings={
            "cell": str(CELL),
            "problems": LOAD.problems,
            "in_flight": LOAD.in_flight,
            "solution_steps": LOAD.writing.solution_steps,
            "step_tokens": LOAD.writing.step_tokens,
            "repeats": repeats,
        },
        details={name: _told(runs, name) for name in STRATEGIES},
    )


def _told(runs: list[CellRun], name: str) -> dict[str, Any]:
    own = [run.spent[name] for run in runs]
    return {
        "steps_per_cpu_s": spread(_speeds(runs, name)),
        "steps_per_s_of_its_event_loop": spread([one.steps / one.usage.event_loops for one in own]),
        "steps": own[0].steps,
        "calls": sum(own[0].calls.values()),
    }


def _speeds(runs: list[CellRun], name: str) -> list[float]:
    own = [run.spent[name] for run in runs]
    return [one.steps / one.usage.by_role[DRIVERS] for one in own]

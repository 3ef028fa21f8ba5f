"""The benchmark of a session alone counts what its searches wrote and scored."""

import pytest

from experiments.bench import driver
from orchestrator.core.protocols import Strategy


@pytest.mark.parametrize("keep_trees", [False, True])
@pytest.mark.parametrize("strategy", driver.STRATEGIES.values(), ids=driver.STRATEGIES)
async def test_every_step_of_every_sample_is_scored_once(strategy: Strategy, keep_trees: bool) -> None:
    assert await driver.search(strategy, 3, seed=0, keep_trees=keep_trees) == 3 * 16 * driver.SOLUTION_STEPS


async def test_its_figures_are_steps_per_cpu_second_against_the_goal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "NUM_PROBLEMS", 2)
    monkeypatch.setattr(driver.time, "process_time", iter(range(0, 1000, 4)).__next__)  # 4 s for each search
    told: list[str] = []
    measured = await driver.measure(repeats=2, on_repeat=told.append)
    steps = 2 * 16 * driver.SOLUTION_STEPS
    assert (measured.ratio, measured.ratio_min, measured.ratio_max) == (steps / 4 / driver.GOAL,) * 3
    assert {name: spread["median"] for name, spread in measured.details["steps_per_cpu_s"].items()} == {
        "beam_search": steps / 4,
        "beam_search with trees": steps / 4,
        "best_of_n": steps / 4,
        "best_of_n with trees": steps / 4,
    }
    assert len(told) == 8

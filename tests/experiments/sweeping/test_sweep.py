"""A sweep end to end: real processes, a real engine with the tiny pair, killed in the middle, resumed, and grown."""

import json
import signal
from pathlib import Path

import pytest

from experiments.doctor import TINY_POLICY, TINY_PRM
from orchestrator.results import read_results
from tests.experiments.commands import commands
from tests.experiments.running.test_run import num_rows
from tests.waiting import wait_until

SWEEP = """
name: grid
data: {{name: tinymath, num_problems: 6}}
policy: {{model: {policy}, kv_cache_gib: 0.25}}
verifier: {{model: {prm}}}
sampling: {{max_tokens: 120}}
problems_in_flight: 1
results_dir: {results}
sweep:
  sampling.temperature: [0.7, 1.0]
  strategies:
    few: [{{name: best_of_n, n: 2}}, {{name: self_consistency, n: 3}}]
    many: [{{name: greedy}}, {{name: best_of_n, n: 4}}]
"""
DEADLINE_S = 400


@pytest.fixture
def headrace(tmp_path):
    path = tmp_path / "grid.yaml"
    path.write_text(SWEEP.format(policy=TINY_POLICY, prm=TINY_PRM, results=tmp_path))
    with commands("sweep", path, columns=140) as start:
        yield start


def manifest(folder: Path) -> dict[str, dict]:
    return {cell["name"]: cell for cell in json.loads((folder / "sweep.json").read_text())["cells"]}


@pytest.mark.engines
@pytest.mark.timeout(1200)
def test_a_killed_sweep_is_resumed_and_an_added_cell_is_all_that_runs(headrace, tmp_path):
    folder = tmp_path / "grid"
    many = folder / "sampling.temperature=0.7,strategies=many"

    process = headrace()
    wait_until(lambda: num_rows(many) > 0 or process.poll() is not None, "rows are saved", within_s=DEADLINE_S)
    process.kill()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, output
    wait_until(lambda: not headrace.alive(), "nothing is left running", within_s=60)
    killed = {cell: num_rows(folder / cell) for cell in manifest(folder)}
    assert 0 < sum(killed.values()) < 4 * 12
    before = read_results(many)[0]

    output, _ = headrace("--resume", "sweep.sampling.temperature=[0.7, 1.0, 0.4]").communicate(timeout=DEADLINE_S)
    cells = manifest(folder)
    assert len(cells) == 6 and all(cell["done"] == cell["searches"] == 12 for cell in cells.values()), output
    problems, candidates = {}, {}
    for cell in cells:
        problems[cell], candidates[cell] = read_results(folder / cell)
        assert (problems[cell].status == "ok").all()
        assert not problems[cell].duplicated(["problem_id", "strategy", "params", "seed"]).any()
    # what was written before the kill is still there, as it was
    kept = problems[many.name].merge(before[["problem_id", "strategy", "started_at"]])
    assert len(kept) == len(before)
    # the models were started once, for the policy and the verifier of all cells
    assert output.count("starting the policy") == 1, output
    # the few were answered from the many: their first samples, and no engine
    for temperature in ("0.4", "0.7", "1.0"):
        few, of_many = (f"sampling.temperature={temperature},strategies={name}" for name in ("few", "many"))
        assert set(cells[few]["replayed"].values()) == {f"{of_many}: best_of_n n=4"}
        assert set(problems[few].replayed_from) == {f"{of_many}: best_of_n n=4"}
        for strategy, n in (("best_of_n", 2), ("self_consistency", 3)):
            found = candidates[few][candidates[few].strategy == strategy].set_index(["problem_id", "candidate"])
            drawn = candidates[of_many][candidates[of_many].strategy == "best_of_n"]
            drawn = drawn[drawn.candidate < n].set_index(["problem_id", "candidate"])
            assert len(found) == 6 * n
            assert found.text.sort_index().equals(drawn.text.sort_index())
            assert found.correct.sort_index().equals(drawn.correct.sort_index())
    assert "replayed" in output and (folder / "sweep.md").read_text().count("| replayed |") == 6

    # all of it is there: no model is started, and no row changes
    files = {path: path.stat().st_mtime_ns for path in folder.glob("*/*/*.parquet")}
    process = headrace("--resume", "sweep.sampling.temperature=[0.7, 1.0, 0.4]")
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 0 and "starting" not in output, output
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*/*/*.parquet")} == files

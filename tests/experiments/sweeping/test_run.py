"""What a sweep runs, refuses and goes on from, with models that only pretend to be there."""

import json
import shutil
import sys
from contextlib import nullcontext
from dataclasses import replace

import pytest

from experiments import cli
from experiments.doctor import TINY_POLICY, TINY_PRM
from experiments.running.models import OpenModels
from experiments.sweeping import run
from experiments.sweeping.folder import done_keys
from experiments.sweeping.run import in_order, plan_sweep
from orchestrator.core.errors import ReplicaError
from orchestrator.results import read_problems
from orchestrator.runner import Job
from tests.experiments.synthetic import problem_row

SWEEP = """
name: s
data: {{name: tinymath, num_problems: 2}}
policy: {{model: {policy}}}
verifier: {{model: {prm}}}
strategies: [{{name: greedy}}]
results_dir: {results}
sweep: {axes}
"""
TEMPERATURES = "{sampling.temperature: [0.5, 1.0]}"


@pytest.fixture
def headrace(monkeypatch, capsys, tmp_path):
    """Runs `headrace sweep` in this process on models that answer at once; (exit code, what was shown)."""

    def start(axes, *arguments, on=None):
        path = tmp_path / "s.yaml"
        path.write_text(SWEEP.format(policy=TINY_POLICY, prm=TINY_PRM, results=tmp_path / "results", axes=axes))
        headrace.ran, headrace.fitted = [], []

        async def fit(self, wanted, on_stage):
            headrace.fitted.append(wanted)

        async def run_on(models, plan, results, jobs, *, on_stage, on_row, on_note):
            done = results.done_keys()
            for job in [job for job in jobs if job.key not in done]:
                if on is not None:
                    on(plan, job)
                headrace.ran.append((plan.config.name, job.strategy_name, job.seed))
                row = row_of(job, plan.config.name)
                results.add(row, [], None)
                on_row(row, [])

        monkeypatch.setattr(OpenModels, "fit", fit)
        monkeypatch.setattr(run, "run_on", run_on)
        monkeypatch.setattr(run, "connected", lambda ray, replicas: nullcontext())
        monkeypatch.setattr(sys, "argv", ["headrace", "sweep", str(path), *arguments])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out + captured.err

    headrace = start
    return headrace


def row_of(job: Job, run_id: str):
    row = problem_row(job.problem.id, job.strategy_name, None, job.seed, correct=True)
    return replace(row, params=job.params, run_id=run_id)


def cells(headrace):
    return [cell for cell, _, _ in headrace.ran]


def test_complete_cells_are_not_run_again_and_a_new_one_is(headrace, tmp_path):
    assert headrace(TEMPERATURES)[0] == 0
    assert cells(headrace) == ["sampling.temperature=0.5"] * 2 + ["sampling.temperature=1.0"] * 2
    code, out = headrace(TEMPERATURES)
    assert code == 2 and "already holds results of this sweep; wanted --resume" in out and not headrace.ran
    assert headrace("{sampling.temperature: [0.5, 0.7, 1.0]}", "--resume")[0] == 0
    assert cells(headrace) == ["sampling.temperature=0.7"] * 2
    manifest = json.loads((tmp_path / "results" / "s" / "sweep.json").read_text())
    assert [(cell["choices"], cell["done"], cell["searches"]) for cell in manifest["cells"]] == [
        (["0.5"], 2, 2), (["0.7"], 2, 2), (["1.0"], 2, 2),
    ]  # fmt: skip
    assert headrace(TEMPERATURES, "--resume")[0] == 0 and not headrace.fitted


def test_more_strategies_and_seeds_of_a_cell_are_all_that_is_run(headrace, tmp_path):
    headrace(TEMPERATURES)
    assert headrace(TEMPERATURES, "--resume", "seeds=[0, 3]")[0] == 0
    assert {(strategy, seed) for _, strategy, seed in headrace.ran} == {("greedy", 3)} and len(headrace.ran) == 4
    more = "strategies=[{name: greedy}, {name: mcts, simulations: 2}]"
    assert headrace(TEMPERATURES, "--resume", "seeds=[0, 3]", more)[0] == 0
    assert {strategy for _, strategy, _ in headrace.ran} == {"mcts"} and len(headrace.ran) == 8
    assert "mcts" in (tmp_path / "results/s/sampling.temperature=0.5/run.yaml").read_text()
    code, out = headrace(TEMPERATURES, "--resume", "seeds=[3]", more)
    assert code == 2 and "holds rows of seed 0, which the cell no longer has" in out


def test_a_cell_with_other_settings_is_refused_before_anything_is_run_or_replaced_if_asked(headrace, tmp_path):
    headrace(TEMPERATURES)
    before = read_problems(tmp_path / "results/s/sampling.temperature=0.5")
    axes = "{sampling.temperature: [0.2, 0.5, 1.0]}"
    code, out = headrace(axes, "--resume", "sampling.max_tokens=64")
    assert code == 2 and "sampling.max_tokens (there 1024, now 64)" in out and not headrace.ran
    assert not (tmp_path / "results/s/sampling.temperature=0.2").exists()
    assert headrace(axes, "--resume", "problems_in_flight=1")[0] == 0, "a setting that changes no row"
    assert headrace(axes, "--overwrite", "sampling.max_tokens=64")[0] == 0 and len(headrace.ran) == 6
    assert len(read_problems(tmp_path / "results/s/sampling.temperature=0.5")) == len(before)


def test_a_cell_whose_folder_was_deleted_is_run_anew(headrace, tmp_path):
    headrace(TEMPERATURES)
    shutil.rmtree(tmp_path / "results/s/sampling.temperature=0.5")
    assert headrace(TEMPERATURES, "--resume")[0] == 0 and cells(headrace) == ["sampling.temperature=0.5"] * 2


def test_a_cell_that_fails_does_not_end_the_others(headrace, tmp_path):
    def fail(plan, job):
        if plan.config.name == "sampling.temperature=0.5":
            raise ReplicaError("no replica is left")

    code, out = headrace(TEMPERATURES, on=fail)
    assert code == 1 and cells(headrace) == ["sampling.temperature=1.0"] * 2
    assert "failed: sampling.temperature=0.5: no replica is left" in " ".join(out.split())
    manifest = json.loads((tmp_path / "results" / "s" / "sweep.json").read_text())
    assert [cell["error"] for cell in manifest["cells"]] == ["no replica is left", None]
    assert headrace(TEMPERATURES, "--resume")[0] == 0 and cells(headrace) == ["sampling.temperature=0.5"] * 2


def test_where_every_cell_fails_their_errors_are_shown_and_no_table(headrace):
    def fail(plan, job):
        raise ReplicaError("no replica is left")

    code, out = headrace(TEMPERATURES, on=fail)
    assert code == 1 and out.count("no replica is left") >= 2 and "accuracy" not in out


def test_ctrl_c_keeps_what_was_found_and_says_how_to_go_on(headrace, tmp_path):
    def interrupt(plan, job):
        if plan.config.name == "sampling.temperature=1.0":
            raise KeyboardInterrupt

    code, out = headrace(TEMPERATURES, on=interrupt)
    assert code == 130
    assert "interrupted: 2 of 4 searches are saved" in out and "--resume" in out and "Traceback" not in out
    assert headrace(TEMPERATURES, "--resume")[0] == 0 and cells(headrace) == ["sampling.temperature=1.0"] * 2


def test_a_probe_runs_the_first_problems_and_keeps_them(headrace, tmp_path):
    code, out = headrace(TEMPERATURES, "--probe", "1")
    assert code == 0 and len(headrace.ran) == 2
    assert "estimated from the rows of" in out and "to run the rest: headrace sweep" in out
    assert headrace(TEMPERATURES, "--resume")[0] == 0 and len(headrace.ran) == 2


@pytest.mark.parametrize("name", ["notes.txt", "run.yaml"])
def test_a_folder_of_something_else_is_left_alone(headrace, tmp_path, name):
    folder = tmp_path / "results" / "s"
    folder.mkdir(parents=True)
    (folder / name).write_text("mine")
    code, out = headrace(TEMPERATURES, "--overwrite")
    assert code == 2 and "and no sweep; wanted another name" in out
    assert [path.name for path in folder.iterdir()] == [name] and (folder / name).read_text() == "mine"


@pytest.mark.parametrize(
    ("axes", "message"),
    [
        ("{policy.model: [nowhere/policy]}", "cell policy.model=policy: policy: no folder"),
        ("{data: [{name: jsonl, path: nowhere.jsonl}]}", "cell data=jsonl: data: can't read nowhere.jsonl"),
        ("{sampling.temperature: 1}", "sweep.sampling.temperature: wanted a list"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing_behind(headrace, tmp_path, axes, message):
    code, out = headrace(axes)
    assert code == 2 and message in out and out.count("\n") == 1
    assert not headrace.ran and not (tmp_path / "results").exists()


def test_run_sends_a_sweep_to_its_command(headrace, tmp_path, monkeypatch, capsys):
    headrace(TEMPERATURES)
    monkeypatch.setattr(sys, "argv", ["headrace", "run", str(tmp_path / "s.yaml")])
    with pytest.raises(SystemExit):
        cli.main()
    assert "is a sweep of several runs; wanted headrace sweep" in capsys.readouterr().err


def test_each_policy_is_loaded_once_and_each_verifier_once_beside_it(tmp_path):
    path = tmp_path / "s.yaml"
    axes = """
  sampling.temperature: [0.5, 1.0]
  steps.every_tokens: [8, 16]
  judge:
    none: {strategies: [{name: greedy}]}
    one: {strategies: [{name: best_of_n, n: 2}]}
    two: {strategies: [{name: best_of_n, n: 2}], verifier.slots: 7}
"""
    path.write_text(SWEEP.format(policy=TINY_POLICY, prm=TINY_PRM, results=tmp_path, axes=axes))
    plan = plan_sweep(path, [])
    loads = [
        (wanted.steps.every_tokens, None if wanted.verifier is None else wanted.verifier.config.slots)
        for wanted in (planned.plan.wanted for planned in in_order(plan.cells))
    ]
    assert (
        loads == [(8, 1024)] * 2 + [(8, 7)] * 2 + [(8, None)] * 2 + [(16, 1024)] * 2 + [(16, 7)] * 2 + [(16, None)] * 2
    )
    assert len({id(planned.plan.dataset) for planned in plan.cells}) == 1, "one data set, read once"
    first = plan.cells[1].plan.wanted
    assert first.serves(plan.cells[0].plan.wanted) and not plan.cells[0].plan.wanted.serves(first)


def test_what_is_done_is_read_from_the_rows_that_are_no_errors(headrace, tmp_path):
    headrace(TEMPERATURES)
    plan = plan_sweep(tmp_path / "s.yaml", [])
    assert done_keys(plan.sweep.cells[0]) == {job.key for job in plan.cells[0].plan.jobs}

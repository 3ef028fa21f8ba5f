"""`headrace label` as a user meets it, over a policy that needs no engine; the engine's own part is the session's."""

import json
import signal
import sys

import pytest

from experiments import cli
from experiments.config import PROJECT_ROOT
from experiments.doctor import TINY_POLICY, TINY_PRM
from experiments.labelling import run as label
from experiments.tinymath.task import generate
from tests.experiments.labelling.solving import NoisySolver, opening
from verifiers.training.labelled import read_labelled

CONFIG = """
name: x
method: {method}
data: {{name: tinymath, split: train, num_problems: 6}}
policy: {{model: {policy}}}
k: 4
results_dir: {results}
"""
MADE = generate("train", 6)


@pytest.fixture
def headrace(monkeypatch, capsys):
    """Runs the command in this process; returns (exit code, standard output, standard error) in one line each."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["headrace", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, " ".join(captured.out.split()), " ".join(captured.err.split())

    return run


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "label.yaml"
    path.write_text(CONFIG.format(method="monte_carlo", policy=TINY_POLICY, results=tmp_path))
    return path


@pytest.fixture
def solver(monkeypatch):
    """What writes in place of an engine. `faults`: what it raises at a problem; `interrupted`: where Ctrl-C comes."""

    class Solver(NoisySolver):
        def __init__(self):
            super().__init__(MADE)
            self.faults = {}
            self.interrupted = ""

        def _continuation(self, text, request):
            for made in MADE:
                if text.startswith(made.prompt) and made.id in self.faults:
                    raise self.faults[made.id]
                if text.startswith(made.prompt) and made.id == self.interrupted:
                    self.interrupted = ""
                    signal.raise_signal(signal.SIGINT)
            return super()._continuation(text, request)

    made = Solver()

    async def open_engines(plan, answers, stack, on_stage):
        return opening(made, seed=plan.config.seed) if plan.policy else None

    monkeypatch.setattr(label, "_open_engines", open_engines)
    return made


def by_problem(folder):
    solutions = read_labelled(folder)
    return {made.id: [s for s in solutions if s.problem_id == made.id] for made in MADE}


def test_problems_are_labelled_once_whatever_interrupts_and_failed_ones_again_on_resume(
    headrace, config, solver, tmp_path
):
    code, out, _ = headrace("label", config, "name=whole", "labels=soft")
    assert code == 0 and "monte_carlo: 6 problems, 24 solutions, " in out and " rollouts of " in out
    whole = by_problem(tmp_path / "whole")
    assert all(len(solutions) == 4 for solutions in whole.values())

    solver.faults, solver.interrupted = {MADE[1].id: ValueError("no luck")}, MADE[4].id
    code, _, err = headrace("label", config, "labels=soft", "problems_in_flight=1")
    assert code == 130 and "interrupted: 3 of 6 problems are saved" in err and "--resume" in err
    code, _, err = headrace("label", config, "labels=soft")
    assert code == 2 and "--resume" in err

    code, out, err = headrace("label", config, "labels=soft", "--resume", "problems_in_flight=3")
    assert code == 0 and f"failed: {MADE[1].id}: ValueError: no luck" in err and "1 problems have no labels" in err
    assert "monte_carlo: 5 problems" in out
    solver.faults = {}
    code, out, _ = headrace("label", config, "labels=soft", "--resume")
    assert code == 0 and "monte_carlo: 6 problems" in out
    assert by_problem(tmp_path / "x") == whole, "the same labels, in whatever order and company"
    folder = tmp_path / "x"
    assert {path.name for path in folder.iterdir() if path.suffix == ".parquet"} == {
        f"part-{shard:06d}.parquet" for shard in range(len(list(folder.glob("costs/*"))))
    }


def test_answers_that_are_never_found_are_said_while_it_runs(headrace, config, solver, monkeypatch):
    monkeypatch.setattr(solver, "_continuation", lambda text, request: "Hm.\n\nNo idea.")
    code, out, _ = headrace("label", config)
    warning = "warning: 100% of 40 candidates ended without an answer that could be found"
    assert code == 0 and out.count(warning) == 1 and out.index(warning) < out.index("monte_carlo: 6 problems")


def test_methods_are_compared_on_the_same_solutions(headrace, config, solver, tmp_path):
    exact, source = tmp_path / "exact", f"source.labelled={tmp_path / 'exact'}"
    assert headrace("label", config, "name=exact", "method=exact")[0] == 0
    for method in ("monte_carlo", "binary_search"):
        code, out, _ = headrace("label", config, f"name={method}", f"method={method}", source, f"compare={exact}")
        assert code == 0 and "24 solutions to 6 problems: equal " in out
        solutions = read_labelled(tmp_path / method)
        assert {solution.source for solution in solutions} == {method}
        assert [(s.problem_id, s.step_ids) for s in sorted(solutions, key=lambda s: s.problem_id)] == [
            (s.problem_id, s.step_ids) for s in sorted(read_labelled(exact), key=lambda s: s.problem_id)
        ]
    solver.faults = dict.fromkeys((made.id for made in MADE), ValueError("nothing is written any more"))
    code, out, err = headrace("label", config, "name=again", "method=exact", source, f"compare={exact}")
    assert code == 0 and not err and "kappa 1.000" in out


def test_a_published_file_is_imported_without_an_engine(headrace, config, tmp_path):
    path = tmp_path / "stepwise.jsonl"
    records = [{"prompt": f"p{i % 2}", "completions": ["a", f"b{i}"], "labels": [True, False]} for i in range(4)]
    path.write_text("\n".join(map(json.dumps, records)))
    arguments = ("method=imported", f"source.path={path}", "source.format=stepwise")
    code, out, _ = headrace("label", config, *arguments)
    assert code == 0 and "imported: 2 problems, 4 solutions, 8 steps" in out
    assert {s.completions: s.labels for s in read_labelled(tmp_path / "x")} == {
        ("a", f"b{i}"): (1.0, 0.0) for i in range(4)
    }
    code, out, _ = headrace("label", config, *arguments, "--resume")
    assert code == 0 and len(read_labelled(tmp_path / "x")) == 4


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["method=monte"], "method: "),
        (["k=0"], "k: must be >= 1"),
        (["method=binary_search", "labels=soft"], "wanted hard labels"),
        (["method=binary_search", "threshold=0.5"], "wanted hard labels"),
        (["labels=soft", "threshold=0.5"], "threshold: is for hard labels"),
        (["threshold=1"], "threshold: must be in [0, 1)"),
        (["data=null"], "data: is missing"),
        (["policy=null"], "policy: is missing"),
        (["policy.model=nowhere"], "nowhere"),
        (["method=verifier"], "verifier: is missing"),
        (["method=imported"], "imported goes with source.path"),
        (["source.path=a.jsonl"], "wanted path and format or neither"),
        (["method=imported", "source={path: a.jsonl, format: prm}"], "wanted one of prm800k"),
        (["source={run: a, labelled: b}"], "at most one of run, labelled and path"),
        (["source={labelled: nowhere}"], "nowhere"),
        (["source={run: nowhere}"], "nowhere is not a folder"),
        (["source={n: 0}"], "source: n must be >= 1"),
        (["method=exact", "data={name: gsm8k, path: a.jsonl}"], "exact labels are known of tinymath only"),
        (["compare=nowhere"], "nowhere"),
        (["name=a/b"], "name: wanted a plain folder name"),
    ],
)
def test_a_mistake_is_one_message_before_anything_is_started(
    headrace, config, monkeypatch, tmp_path, overrides, message
):
    async def started(*args, **kwargs):
        pytest.fail("an engine was started")

    monkeypatch.setattr(label, "_open_engines", started)
    code, _, err = headrace("label", config, *overrides)
    assert code == 2 and err.startswith("error: ") and message in err
    assert not (tmp_path / "x").exists()


def test_solutions_must_be_of_the_problems(headrace, config, solver, tmp_path):
    assert headrace("label", config, "name=exact", "method=exact")[0] == 0
    arguments = (f"source.labelled={tmp_path / 'exact'}", "data.num_problems=2")
    code, _, err = headrace("label", config, *arguments)
    assert code == 2 and "of which source has solutions (4 such)" in err


def test_the_shipped_file_is_in_order():
    plan = label.plan_label(PROJECT_ROOT / "configs" / "label.yaml", [])
    assert plan.policy is not None and plan.policy.model == str(TINY_POLICY) and plan.verifier is None
    judged = label.plan_label(PROJECT_ROOT / "configs" / "label.yaml", ["method=verifier"])
    assert judged.verifier is not None and judged.verifier.config.model == str(TINY_PRM)


def test_a_judge_without_a_model_of_its_own_stays_without_one(config):
    plan = label.plan_label(config, ["method=verifier", "verifier.name=llm_judge"])
    assert plan.verifier is not None and plan.verifier.config.model == ""  # and is not the folder that this runs in

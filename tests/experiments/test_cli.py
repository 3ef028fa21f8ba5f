"""The command line as a user meets it: bad input is one message and exit code 2, before anything is started."""

import json
import shutil
import sys

import pytest

from experiments import cli
from experiments.config import PROJECT_ROOT
from experiments.doctor import TINY_POLICY, TINY_PRM
from orchestrator.results import read_results
from orchestrator.serving.keys import read_keys
from tests.experiments.synthetic import NUM_PROBLEMS, write_run

GOOD = """
name: {name}
data: {{name: tinymath, num_problems: 2}}
policy: {{model: {policy}}}
verifier: {{model: {prm}}}
strategies: [{{name: best_of_n, n: 2}}]
results_dir: {results}
"""


@pytest.fixture
def headrace(monkeypatch, capsys):
    """Runs the command in this process; returns (exit code, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["headrace", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        return exit_.value.code or 0, captured.out, captured.err

    return run


@pytest.fixture
def run_file(tmp_path, monkeypatch):
    """Writes a good run file, with changes; starting a pool would fail the test."""

    async def started(*args, **kwargs):
        pytest.fail("a pool was started")

    monkeypatch.setattr("experiments.running.run.execute", started)

    def write(**changes):
        fields = {"name": "x", "policy": TINY_POLICY, "prm": TINY_PRM, "results": tmp_path / "results"}
        path = tmp_path / "run.yaml"
        path.write_text(GOOD.format(**{**fields, **changes}))
        return path

    return write


def refused(outcome, *parts):
    code, _, message = outcome
    assert code == 2, message
    assert message.count("\n") == 1 and message.startswith("error: ")
    assert "Traceback" not in message
    for part in parts:
        assert part in message
    return True


def nothing_written(tmp_path):
    return not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    ("override", "parts"),
    [
        ("polcy.replicas=2", ["polcy"]),
        ("policy.replicaz=2", ["replicaz", "Did you mean"]),
        ("policy.replicas=two", ["policy.replicas", "'two'"]),
        ("strategies.0.n=-1", ["n must be >= 1, got -1"]),
        ("strategies.0.name=best", ["'best'", "wanted one of"]),
        ("data.num_problems=0", ["num_problems must be >= 1, got 0"]),
        ("data.name=tinymth", ["did you mean tinymath"]),
        ("data={name: math500, path: README.md}", ["README.md line 1 is not JSON"]),
        ("data={name: gsm8k, choices: 4}", ["gsm8k has no setting 'choices'", "it has name"]),
        ("data.grader=maths", ["wanted one of exact, math"]),
        ("verifier=null", ["best_of_n scores candidates"]),
        ("verifier.name=streaming", ["streaming_prm"]),
        ("policy.model=experiments/tinymath/models/polcy", ["polcy"]),
        ("nonsense", ["key=value"]),
    ],
)
def test_a_bad_setting_is_refused_before_anything_is_started(headrace, run_file, tmp_path, override, parts):
    assert refused(headrace("run", run_file(), override), *parts)
    assert nothing_written(tmp_path)


def test_beam_width_above_n_is_refused(headrace, run_file, tmp_path):
    path = run_file()
    path.write_text(path.read_text().replace("{name: best_of_n, n: 2}", "{name: beam_search, n: 4, beam_width: 8}"))
    assert refused(headrace("run", path), "beam_width must be between 1 and n=4, got 8")
    assert nothing_written(tmp_path)


def test_a_policy_of_the_wrong_architecture_is_refused(headrace, run_file, tmp_path):
    assert refused(headrace("run", run_file(policy=TINY_PRM)), "HeadraceStreamingPRM")
    assert refused(headrace("run", run_file(prm=TINY_POLICY)), "LlamaForCausalLM")
    assert nothing_written(tmp_path)


@pytest.mark.parametrize("which", ["policy", "prm"])
def test_a_truncated_checkpoint_is_refused(headrace, run_file, tmp_path, which):
    broken = tmp_path / "broken"
    shutil.copytree(TINY_POLICY if which == "policy" else TINY_PRM, broken)
    weights = (broken / "model.safetensors").read_bytes()
    (broken / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert refused(headrace("run", run_file(**{which: broken})), "model.safetensors")
    (broken / "model.safetensors").write_bytes(b"not a header at all")
    assert refused(headrace("run", run_file(**{which: broken})), "model.safetensors")
    assert nothing_written(tmp_path)


def test_bad_data_files_are_refused(headrace, run_file, tmp_path):
    data = tmp_path / "data.jsonl"
    data.write_text("")
    arguments = ("run", run_file(), "data.name=jsonl", f"data.path={data}")
    assert refused(headrace(*arguments), "holds no problem")
    data.write_bytes(b'{"problem": "caf\xe9", "answer": "1"}')
    assert refused(headrace(*arguments), "line 1 is not UTF-8")
    data.unlink()
    assert refused(headrace(*arguments), "can't read")
    assert nothing_written(tmp_path)


def test_a_results_folder_that_is_not_this_runs_is_refused(headrace, run_file, tmp_path):
    folder = tmp_path / "results" / "x"
    folder.mkdir(parents=True)
    (folder / "thesis.txt").write_text("mine")
    assert refused(headrace("run", run_file()), "other files")
    assert (folder / "thesis.txt").read_text() == "mine"
    assert refused(headrace("run", run_file(), "results_dir=/proc/headrace"), "can't write")


def test_a_missing_file_or_folder_is_refused(headrace, tmp_path):
    assert refused(headrace("run", tmp_path / "none.yaml"), "does not exist")
    assert refused(headrace("report", tmp_path), "not a results folder")
    assert refused(headrace("report", tmp_path / "none"), "not a folder")


def test_brackets_in_a_message_are_shown(headrace, run_file):
    path = run_file()
    path.write_text(path.read_text().replace("{name: best_of_n, n: 2}", "{n: 2}"))
    assert refused(headrace("run", path), "strategies[0]: name is missing")


def test_the_doctor_finds_the_demo_runnable(headrace):
    code, out, _ = headrace("doctor")
    assert code == 0
    for part in ("Python", "vllm", "ray", "tiny policy", "tiny PRM", "can run"):
        assert part in out


def test_the_doctor_says_what_is_missing(headrace, monkeypatch, tmp_path):
    monkeypatch.setattr("experiments.doctor.TINY_PRM", tmp_path)
    code, out, _ = headrace("doctor")
    assert code == 1
    assert "missing: tiny PRM" in out


def test_a_recorded_run_is_replayed_into_a_folder_of_its_own(headrace, tmp_path):
    write_run(tmp_path / "recorded")
    path = tmp_path / "replay.yaml"
    path.write_text(f"strategies: [{{name: workload_budget, n: 8}}]\nseeds: [0, 1]\nresults_dir: {tmp_path}\n")
    code, out, message = headrace("replay", tmp_path / "recorded", path)
    assert code == 0, message
    assert "report.md" in out
    problems, _ = read_results(tmp_path / "recorded-replay")
    assert len(problems) == 2 * NUM_PROBLEMS and problems.num_candidates.sum() == 2 * NUM_PROBLEMS * 4
    assert refused(headrace("replay", tmp_path / "recorded", path), "already holds results", "--overwrite")
    assert refused(headrace("replay", tmp_path / "recorded", path, "strategies.0.name=greedy", "--overwrite"), "greedy")


def test_help_lists_the_commands(headrace):
    code, out, _ = headrace("--help")
    assert code == 0
    for command in ("run", "replay", "report", "serve", "doctor"):
        assert command in out


def test_the_shipped_configs_are_valid():
    from experiments.running.run import plan_run

    for name in ("demo.yaml", "tinymath.yaml"):
        plan = plan_run(PROJECT_ROOT / "configs" / name, [])
        assert plan.jobs, name
        json.dumps([job.params for job in plan.jobs[:1]])


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (("beam", "--verifier", TINY_PRM), ("--verifier goes with --policy",)),
        (("beam", "--policy", TINY_POLICY), ("beam: verifier is missing",)),
        (("orchestration", "--problems", "3"), ("--problems goes with --policy",)),
        (("beam", "--pool", "nowhere"), ("no pool 'nowhere' was started here",)),
    ],
)
def test_a_benchmark_of_other_models_is_refused_before_anything_starts(headrace, arguments, parts):
    refused(headrace("bench", *arguments), *parts)


def test_a_new_key_is_shown_once_and_its_line_is_what_the_endpoint_reads(headrace):
    code, out, _ = headrace("key", "new", "alice", "--class", "trial")
    key, line = out.splitlines()
    assert code == 0 and key not in line
    [record] = read_keys(line, "standard output", ["trial"])
    assert (record.name, record.key_class) == ("alice", "trial")
    assert refused(headrace("key", "new", "a:b"), "name: wanted", "'a:b'")


def test_report_writes_a_page_of_one_run_and_one_of_several(headrace, tmp_path):
    for name in ("a", "b"):
        write_run(tmp_path / name)
    code, out, message = headrace("report", tmp_path / "a", "--out", tmp_path / "elsewhere.html")
    assert code == 0 and "elsewhere.html" in out, message
    assert (tmp_path / "elsewhere.html").exists() and not (tmp_path / "a" / "report.html").exists()
    code, out, message = headrace("report", tmp_path / "a", tmp_path / "b")
    assert code == 0 and "together.html" in out, message
    assert all((tmp_path / name / "report.html").exists() for name in ("a", "b"))
    assert "2 runs compared" in (tmp_path / "a" / "together.html").read_text()
    assert refused(headrace("report", tmp_path / "a", "--out", tmp_path), "can't write to")


def test_compare_prints_two_runs_and_refuses_what_cannot_be_paired(headrace, tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b", judged=False)
    code, out, _ = headrace("compare", tmp_path / "a", tmp_path / "b", "--difficulty", "oracle")
    assert code == 0 and "By strategy" in out and "By quintile of difficulty" in out
    assert "only in the first: best_of_n n=8" in out and "only in the second: self_consistency n=8" in out
    assert refused(headrace("compare", tmp_path / "a", tmp_path / "lacking"), "lacking", "is not a folder")
    assert refused(headrace("compare", tmp_path / "a", tmp_path / "b", "--difficulty", "predicted"), "which not both")

"""The main job end to end: real processes, a real vLLM engine with the tiny policy, the tiny PRM, a real Ray."""

import signal
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from experiments.doctor import TINY_POLICY, TINY_PRM
from orchestrator.results import read_results
from tests.experiments.commands import commands
from tests.waiting import wait_until

RUN = """
name: e2e
data: {{name: tinymath, num_problems: 12}}
policy: {{model: {policy}}}
verifier: {{model: {prm}}}
sampling: {{temperature: 1.0, max_tokens: 120}}
strategies:
  - {{name: greedy}}
  - {{name: best_of_n, n: 4}}
  - {{name: self_consistency, n: 4}}
  - {{name: beam_search, n: 4, beam_width: 2}}
  - {{name: adaptive_best_of_n, n: 8}}
  - {{name: budget_forcing, min_thinking_tokens: 60}}
problems_in_flight: 1
results_dir: {results}
"""
NUM_SEARCHES = 6 * 12
DEADLINE_S = 400


@pytest.fixture
def driver(tmp_path):
    path = tmp_path / "e2e.yaml"
    path.write_text(RUN.format(policy=TINY_POLICY, prm=TINY_PRM, results=tmp_path))
    with commands("run", path, columns=200) as start:
        yield start


def num_rows(folder: Path) -> int:
    return len(read_results(folder)[0]) if list(folder.glob("problems/*.parquet")) else 0


@pytest.fixture(scope="module")
def two_nodes():
    """A local cluster with one CPU on each of two nodes: the policy fits on one, the verifier on the other."""
    assert not ray.is_initialized()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    cluster.add_node(num_cpus=1)
    yield cluster.address
    cluster.shutdown()


@pytest.mark.timeout(1200)
def test_a_run_survives_ctrl_c_and_sigkill_and_is_finished_on_a_cluster_of_two_nodes(driver, tmp_path, request):
    folder = tmp_path / "e2e"

    # Ctrl-C: a clean end that says how to go on
    process = driver()
    wait_until(
        lambda: num_rows(folder) > 0 or process.poll() is not None, "the first rows are saved", within_s=DEADLINE_S
    )
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "--resume" in output and "Traceback" not in output
    after_ctrl_c = num_rows(folder)
    assert 0 < after_ctrl_c < NUM_SEARCHES
    wait_until(lambda: not driver.alive(), "nothing is left running", within_s=30)

    # SIGKILL in the middle
    process = driver("--resume")
    wait_until(
        lambda: num_rows(folder) > after_ctrl_c or process.poll() is not None,
        "more rows are saved",
        within_s=DEADLINE_S,
    )
    process.kill()
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert num_rows(folder) < NUM_SEARCHES
    wait_until(lambda: not driver.alive(), "nothing is left running", within_s=60)

    # the rest, on a cluster: same file, one more key
    address = request.getfixturevalue("two_nodes")
    process = driver("--resume", f"ray.address={address}", "problems_in_flight=8")
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    problems, candidates = read_results(folder)
    keys = ["problem_id", "strategy", "params", "seed"]
    assert len(problems) == NUM_SEARCHES and not problems.duplicated(keys).any()
    assert not candidates.duplicated([*keys, "candidate"]).any()
    assert (problems.status == "ok").all(), problems.error.dropna().tolist()

    # what the rows say
    assert problems.groupby("strategy").problem_id.nunique().eq(12).all()
    per_row = candidates.groupby(keys).generated_tokens.sum()
    rows = problems.set_index(keys)
    sampled = rows[rows.index.get_level_values("strategy").isin(["greedy", "best_of_n", "self_consistency"])]
    assert (per_row[sampled.index] == sampled.generated_tokens - sampled.discarded_tokens).all()
    judged = rows[rows.index.get_level_values("strategy").isin(["best_of_n", "beam_search", "adaptive_best_of_n"])]
    assert (judged.verifier_tokens > 0).all() and judged.score.between(0, 1).all()
    assert (rows.policy_flops > 0).all()
    scored = candidates[candidates.strategy == "best_of_n"]
    for row in scored.itertuples():
        assert len(row.step_scores) == len(row.step_token_counts)
        assert sum(row.step_token_counts) == len(row.token_ids)
    for made in ("compute_accuracy.png", "compute_accuracy.svg", "run.yaml", "versions.json"):
        assert (folder / made).stat().st_size > 0

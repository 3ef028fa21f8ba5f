"""A run of two drivers end to end, on real engines: what is killed or interrupted costs time and no row."""

import json
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from experiments.doctor import TINY_POLICY, TINY_PRM
from orchestrator.results import read_results
from tests.experiments.commands import TAG, tagged
from tests.experiments.running.test_run import num_rows
from tests.waiting import wait_until

RUN = """
name: {name}
data: {{name: tinymath, num_problems: {problems}}}
policy: {{model: {policy}}}
verifier: {{model: {prm}}}
sampling: {{temperature: 1.0, max_tokens: 120}}
strategies: [{{name: best_of_n, n: 8}}, {{name: beam_search, n: 4, beam_width: 2}}]
problems_in_flight: 6
drivers: 2
results_dir: {results}
"""
POOL = """
name: many
policy: {{model: {policy}, kv_cache_gib: 0.1}}
verifier: {{model: {prm}}}
"""
NUM_PROBLEMS = 40
NUM_SEARCHES = 2 * NUM_PROBLEMS
DEADLINE_S = 900
# SIGINT as a terminal has it, also where a shell in the background started the tests
HEADRACE = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from experiments.cli import main; main()"
)
KEYS = ["problem_id", "strategy", "seed"]
pytestmark = [pytest.mark.engines, pytest.mark.timeout(3000)]


class Commands:
    """Starts `headrace` in processes of their own; whatever runs leave behind carries the tag."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tag = uuid.uuid4().hex
        self._started: list[subprocess.Popen[str]] = []

    def run(self, name: str, *arguments: str) -> subprocess.Popen[str]:
        """A run of two drivers on the pool, unless the arguments say otherwise."""
        text = RUN.format(name=name, problems=NUM_PROBLEMS, policy=TINY_POLICY, prm=TINY_PRM, results=self.folder)
        (self.folder / f"{name}.yaml").write_text(text)
        arguments = arguments if any("pool=" in each for each in arguments) else (*arguments, "pool=many")
        return self.start("run", str(self.folder / f"{name}.yaml"), *arguments, **{TAG: self.tag})

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[str]:
        own = {"COLUMNS": "200", "XDG_STATE_HOME": str(self.folder)}
        process = subprocess.Popen(
            [sys.executable, "-c", HEADRACE, *arguments],
            env={**os.environ, **own, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def end(self) -> None:
        for process in self._started:
            process.kill()
            process.communicate(timeout=10)
        for survivor in tagged(self.tag):
            survivor.kill()

    def drivers(self) -> list[psutil.Process]:
        """That the pool's Ray runs."""
        record = json.loads((self.folder / "headrace" / "pools" / "many.json").read_text())
        below = psutil.Process(record["pid"]).children(recursive=True)
        return [each for each in below if is_driver(each)]

    def wait_until_nothing_is_left(self) -> None:
        wait_until(lambda: not tagged(self.tag) and not self.drivers(), "nothing of the run is left", within_s=60)


def is_driver(process: psutil.Process) -> bool:
    try:
        return "".join(process.cmdline()[:1]).startswith("ray::Driver")
    except psutil.Error:  # it has ended
        return False


@pytest.fixture(scope="module")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """With a pool that is up."""
    made = Commands(tmp_path_factory.mktemp("runs"))
    (made.folder / "pool.yaml").write_text(POOL.format(policy=TINY_POLICY, prm=TINY_PRM))
    try:
        whole(made.start("up", str(made.folder / "pool.yaml")))
        try:
            yield made
        finally:
            whole(made.start("down", "many"))
    finally:
        made.end()


def whole(process: subprocess.Popen[str]) -> None:
    """It goes to its end."""
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output


@pytest.fixture(scope="module")
def undisturbed(commands: Commands) -> pd.DataFrame:
    return finished(commands, "undisturbed")


def finished(commands: Commands, name: str, *arguments: str) -> pd.DataFrame:
    """The candidates of a run that goes to its end."""
    whole(commands.run(name, *arguments))
    return candidates_of(commands, name)


def candidates_of(commands: Commands, name: str) -> pd.DataFrame:
    """Of a run that is whole: each row once, none an error, and nothing left running."""
    commands.wait_until_nothing_is_left()
    problems, candidates = read_results(commands.folder / name)
    assert len(problems) == NUM_SEARCHES and not problems.duplicated(KEYS).any()
    assert (problems.status == "ok").all(), problems.error.dropna().tolist()
    assert not candidates.duplicated([*KEYS, "candidate"]).any()
    assert (candidates.groupby(KEYS).size() == problems.set_index(KEYS).num_candidates.sort_index()).all()
    return candidates


def repeated(one: pd.DataFrame, other: pd.DataFrame, strategy: str) -> float:
    """The share of candidates whose tokens are the same in both."""
    first, second = (
        rows[rows.strategy == strategy].set_index([*KEYS, "candidate"]).token_ids.map(tuple) for rows in (one, other)
    )
    assert set(first.index) == set(second.index)
    share = float((first == second.reindex(first.index)).mean())
    print(f"{strategy}: {share:.1%} of {len(first)} candidates are the same")
    return share


def assert_as_undisturbed(candidates: pd.DataFrame, undisturbed: pd.DataFrame) -> None:
    """Batches differ from run to run, and so the last bits of probabilities: a draw may fall on another token."""
    shares = [repeated(candidates, undisturbed, strategy) for strategy in ("best_of_n", "beam_search")]
    assert shares[0] > 0.95 and shares[1] > 0.8, shares


def wait_until_under_way(commands: Commands, process: subprocess.Popen[str], name: str) -> None:
    """Some rows are there, and not all."""
    folder = commands.folder / name
    wait_until(
        lambda: num_rows(folder) > 0 or process.poll() is not None, "the first rows are saved", within_s=DEADLINE_S
    )
    assert process.poll() is None and num_rows(folder) < NUM_SEARCHES


def test_a_driver_that_is_killed_costs_no_row(commands: Commands, undisturbed: pd.DataFrame) -> None:
    process = commands.run("killed-driver")
    wait_until_under_way(commands, process, "killed-driver")
    one, _ = commands.drivers()
    one.kill()
    whole(process)
    assert_as_undisturbed(candidates_of(commands, "killed-driver"), undisturbed)


@pytest.mark.parametrize(
    ("signum", "arguments"),
    [(signal.SIGINT, ()), (signal.SIGKILL, ()), (signal.SIGKILL, ("pool=null", "policy.kv_cache_gib=0.1"))],
    ids=["ctrl-c", "killed", "killed-with-replicas-of-its-own"],
)
def test_a_command_that_is_ended_leaves_nothing_and_is_finished_by_resume(
    commands: Commands, undisturbed: pd.DataFrame, signum: signal.Signals, arguments: tuple[str, ...]
) -> None:
    name = f"ended-{signum.name.lower()}-{len(arguments)}"
    process = commands.run(name, *arguments)
    wait_until_under_way(commands, process, name)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == (130 if signum is signal.SIGINT else -signum), output
    assert "Traceback" not in output
    commands.wait_until_nothing_is_left()
    assert 0 < num_rows(commands.folder / name) < NUM_SEARCHES
    assert_as_undisturbed(finished(commands, name, "--resume"), undisturbed)


def test_two_drivers_write_what_one_writes(commands: Commands, undisturbed: pd.DataFrame) -> None:
    assert_as_undisturbed(finished(commands, "one", "drivers=1"), undisturbed)

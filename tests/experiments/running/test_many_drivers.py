"""A run of two drivers end to end, on real engines: what is killed or interrupted costs time and no row."""

import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import psutil
import pytest

from experiments.doctor import TINY_POLICY, TINY_PRM
from orchestrator.results import read_results
from tests.experiments.running.test_run import num_rows, tagged
from tests.waiting import wait_until

RUN = """
name: {name}
data: {{name: tinymath, num_problems: {problems}}}
policy: {{model: {policy}, kv_cache_gib: 0.1}}
verifier: {{model: {prm}}}
sampling: {{temperature: 1.0, max_tokens: 120}}
strategies: [{{name: best_of_n, n: 8}}, {{name: beam_search, n: 4, beam_width: 2}}]
problems_in_flight: 6
drivers: 2
results_dir: {results}
"""
NUM_PROBLEMS = 40
NUM_SEARCHES = 2 * NUM_PROBLEMS
DEADLINE_S = 900
KEYS = ["problem_id", "strategy", "seed"]
pytestmark = [pytest.mark.engines, pytest.mark.timeout(3000)]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts `headrace run` of a name; whatever the commands leave behind carries the tag."""
    folder, tag = tmp_path_factory.mktemp("runs"), uuid.uuid4().hex
    started: list[subprocess.Popen[str]] = []

    def command(name: str, *arguments: str) -> subprocess.Popen[str]:
        path = folder / f"{name}.yaml"
        path.write_text(RUN.format(name=name, problems=NUM_PROBLEMS, policy=TINY_POLICY, prm=TINY_PRM, results=folder))
        started.append(
            subprocess.Popen(
                [sys.executable, "-c", "from experiments.cli import main; main()", "run", str(path), *arguments],
                env={**os.environ, "HEADRACE_TEST_TAG": tag, "COLUMNS": "200"},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
            )
        )
        return started[-1]

    command.folder, command.tag = folder, tag  # type: ignore[attr-defined]
    yield command
    for process in started:
        process.kill()
        process.communicate(timeout=10)
    for survivor in tagged(tag):
        survivor.kill()


@pytest.fixture(scope="module")
def undisturbed(start: Start) -> pd.DataFrame:
    return finished(start, "undisturbed")


def finished(start: Start, name: str, *arguments: str) -> pd.DataFrame:
    """The candidates of a run that goes to its end."""
    process = start(name, *arguments)
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    return candidates_of(start, name)


def candidates_of(start: Start, name: str) -> pd.DataFrame:
    """Of a run that is whole: each row once, none an error, and nothing left running."""
    wait_until(lambda: not tagged(start.tag), "nothing is left running", within_s=60)
    problems, candidates = read_results(start.folder / name)
    assert len(problems) == NUM_SEARCHES and not problems.duplicated(KEYS).any()
    assert (problems.status == "ok").all(), problems.error.dropna().tolist()
    assert not candidates.duplicated([*KEYS, "candidate"]).any()
    assert (candidates.groupby(KEYS).size() == problems.set_index(KEYS).num_candidates).all()
    return candidates


def repeated(one: pd.DataFrame, other: pd.DataFrame, strategy: str) -> float:
    """The share of candidates whose tokens are the same in both."""
    sides = [
        each[each.strategy == strategy].set_index([*KEYS, "candidate"]).token_ids.map(tuple) for each in (one, other)
    ]
    assert set(sides[0].index) == set(sides[1].index)
    return float((sides[0] == sides[1].reindex(sides[0].index)).mean())


def under_way(process: subprocess.Popen[str], folder: Path) -> None:
    """Some rows are there, and not all."""
    wait_until(
        lambda: num_rows(folder) > 0 or process.poll() is not None, "the first rows are saved", within_s=DEADLINE_S
    )
    assert process.poll() is None and num_rows(folder) < NUM_SEARCHES


def drivers_of(start: Start) -> list[psutil.Process]:
    return [each for each in tagged(start.tag) if each.cmdline() and each.cmdline()[0].startswith("ray::Driver")]


def test_a_driver_that_is_killed_costs_no_row(start: Start, undisturbed: pd.DataFrame) -> None:
    process = start("killed-driver")
    under_way(process, start.folder / "killed-driver")
    drivers = drivers_of(start)
    assert len(drivers) == 2
    drivers[0].kill()
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, output
    assert_as_undisturbed(candidates_of(start, "killed-driver"), undisturbed)


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT])
def test_a_command_that_is_ended_is_finished_by_resume(
    start: Start, undisturbed: pd.DataFrame, signum: signal.Signals
) -> None:
    name = f"ended-by-{signum.name.lower()}"
    process = start(name)
    under_way(process, start.folder / name)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == (130 if signum is signal.SIGINT else -signum), output
    assert "Traceback" not in output
    wait_until(lambda: not tagged(start.tag), "nothing is left running", within_s=60)
    assert 0 < num_rows(start.folder / name) < NUM_SEARCHES
    assert_as_undisturbed(finished(start, name, "--resume"), undisturbed)


def test_two_drivers_write_what_one_writes(start: Start, undisturbed: pd.DataFrame) -> None:
    assert_as_undisturbed(finished(start, "one", "drivers=1"), undisturbed)


def assert_as_undisturbed(candidates: pd.DataFrame, undisturbed: pd.DataFrame) -> None:
    """Batches differ from run to run, and so the last bits of probabilities: a draw may fall on another token."""
    assert repeated(candidates, undisturbed, "best_of_n") > 0.95
    assert repeated(candidates, undisturbed, "beam_search") > 0.8

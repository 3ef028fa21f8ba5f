"""A local Ray: our own, whatever else there is, and nothing left of one that did not start."""

import gc
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import ray
from ray._private.utils import check_version_info

from orchestrator import cluster
from orchestrator.cluster import NoCluster, connected
from orchestrator.core.config import RayConfig
from orchestrator.core.errors import ReplicaError, UserError

LISTENING = """
import psutil, ray
from orchestrator.cluster import connected
from orchestrator.core.config import RayConfig, RuntimeEnvConfig

with connected(RayConfig(), 1):
    ray.get(ray.remote(lambda: 1).remote())
    for process in psutil.Process().children(recursive=True):
        for connection in process.net_connections(kind="inet"):
            if connection.status == psutil.CONN_LISTEN:
                print(process.name(), connection.laddr.ip)
"""


@pytest.fixture
def attempts(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, object]]]:
    """What `ray.init` was called with. It leaves a process and fails."""
    called: list[dict[str, object]] = []
    left: list[subprocess.Popen[bytes]] = []

    def init(**options: object) -> None:
        called.append(options)
        left.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]))
        raise RuntimeError("the node\ntimed out")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", init)
    yield called
    for process in left:
        process.wait(timeout=10)


def test_nothing_is_left_of_a_ray_that_did_not_start_and_why_is_said(attempts, caplog) -> None:
    before = {child.pid for child in psutil.Process().children(recursive=True)}
    with pytest.raises(ReplicaError, match="no local Ray could be started in 4 attempts: the node timed out"):
        with connected(RayConfig(), 1):
            pass
    assert len(attempts) == 4 and all(options["address"] == "local" for options in attempts)
    assert {child.pid for child in psutil.Process().children(recursive=True)} <= before
    assert "attempt 1 of 4 to start a local Ray failed: the node timed out" in caplog.text


def test_an_attempt_that_failed_is_not_told_of_again_once_another_one_went_well(monkeypatch) -> None:
    num_called, told = 0, []

    def init(**options: object) -> None:
        nonlocal num_called
        num_called += 1
        if num_called == 1:
            process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            raise RuntimeError(f"the node {process.pid} timed out")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(sys, "unraisablehook", told.append)
    with connected(RayConfig(), 1):
        gc.collect()
    assert (num_called, told) == (2, [])


def test_a_variable_that_names_a_cluster_is_told_and_not_followed(attempts, caplog, monkeypatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.setattr(cluster, "_START_ATTEMPTS", 1)
    with pytest.raises(ReplicaError), connected(RayConfig(), 1):
        pass
    assert "RAY_ADDRESS=10.0.0.1:6379 is not used: a local Ray starts" in caplog.text
    assert [options["address"] for options in attempts] == ["local"]


def test_an_address_without_a_cluster_is_the_users_error(monkeypatch) -> None:
    def init(**options: object) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)  # of the Ray that other tests use
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(NoCluster, match=r"ray\.address: no Ray cluster at 'auto': nobody there"):
        with connected(RayConfig(address="auto"), 1):
            pass


def test_a_cluster_of_another_version_is_not_taken_for_none(monkeypatch) -> None:
    def init(**options: object) -> None:
        check_version_info({"ray_version": "0.1", "python_version": "3.0.0"}, "here")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(UserError, match=r"ray\.address: the Ray cluster at 'auto' is of another version: .*") as error:
        with connected(RayConfig(address="auto"), 1):
            pass
    assert not isinstance(error.value, NoCluster)


def test_a_local_ray_listens_on_loopback_alone() -> None:
    root = Path(__file__).parents[2]
    found = subprocess.run(
        [sys.executable, "-c", LISTENING], capture_output=True, text=True, timeout=200, cwd=root, check=True
    )
    addresses = {line.rsplit(" ", 1)[1] for line in found.stdout.splitlines()}
    assert addresses and addresses <= {"127.0.0.1", "::ffff:127.0.0.1", "::1"}, found.stdout

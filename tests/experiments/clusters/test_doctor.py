"""The doctor's rounds of a real Ray cluster of two nodes on this machine (`make engines`: they take minutes)."""

import signal
import socket
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from experiments.clusters import doctor
from experiments.clusters.doctor import examine, examine_here
from experiments.clusters.node import NodeProbe
from experiments.clusters.wanted import ModelFolder, Wanted
from experiments.doctor import TINY_POLICY, Finding, Level
from orchestrator.core.config import RayConfig
from tests.two_nodes import two_nodes


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Any, Any]]:
    with two_nodes(env_vars={"PYTHONPATH": str(Path(__file__).parents[3])}) as nodes:
        yield nodes


def wanted(cluster: tuple[Any, Any], results: Path, *folders: str) -> Wanted:
    models = tuple(ModelFolder(key=f"policy.{index}", path=path) for index, path in enumerate(folders))
    return Wanted(ray=RayConfig(address=cluster[0].address), results=str(results), folders=models)


def where(node: Any, findings: list[Finding]) -> dict[str, Finding]:
    return {finding.what: finding for finding in findings if finding.where.endswith(node.node_id[:6])}


@pytest.mark.engines
def test_every_node_tells_what_it_has_and_the_probe_file_is_gone(cluster, tmp_path) -> None:
    folder = tmp_path / "results" / "deep"
    findings = list(examine(wanted(cluster, folder, str(TINY_POLICY), str(tmp_path / "absent"))))
    second = where(cluster[1], findings)
    first = {f.what: f for f in findings if f.where and f.where != second["ray"].where}
    for node in (first, second):
        for what in ("headrace", "python", "ray", "torch", "policy.0", "results", "clock"):
            assert node[what].level is Level.OK, node[what]
        assert node["policy.1"].level is Level.MISSING and "No such file" in node["policy.1"].found
        assert node["results"].found == "shared"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.engines
def test_a_node_that_does_not_answer_is_a_row(cluster, tmp_path) -> None:
    raylet = psutil.Process(cluster[1].all_processes["raylet"][0].process.pid)
    raylet.send_signal(signal.SIGSTOP)
    try:
        findings = list(examine(wanted(cluster, tmp_path)))
    finally:
        raylet.send_signal(signal.SIGCONT)
    silent = where(cluster[1], findings)
    assert list(silent) == ["answer"] and silent["answer"].level is Level.MISSING
    assert any(finding.what == "ray" and finding.where not in ("", silent["answer"].where) for finding in findings)


@pytest.fixture
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> Wanted:
    """A cluster of no nodes."""
    monkeypatch.setattr(doctor, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(NodeProbe, "report", lambda *_: {})
    return Wanted(ray=RayConfig(address="auto"))


def test_a_run_that_begins_meanwhile_keeps_its_results_folder(no_cluster, tmp_path, monkeypatch) -> None:
    run = tmp_path / "results" / "run"

    async def ask_nodes(*_: Any) -> list[Any]:
        run.mkdir()
        return []

    monkeypatch.setattr(doctor, "ask_nodes", ask_nodes)
    assert list(examine(replace(no_cluster, results=str(run.parent)))) == []
    assert list(run.parent.iterdir()) == [run]


def test_a_fault_of_the_cluster_is_none_of_the_results_folder(no_cluster, tmp_path, monkeypatch) -> None:
    async def ask_nodes(*_: Any) -> list[Any]:
        raise ConnectionError("Ray is gone")

    monkeypatch.setattr(doctor, "ask_nodes", ask_nodes)
    with pytest.raises(ConnectionError, match="Ray is gone"):
        examine(replace(no_cluster, results=str(tmp_path / "results")))
    assert list(tmp_path.iterdir()) == []


def test_a_results_folder_that_can_not_be_made_is_missing(no_cluster, tmp_path) -> None:
    (tmp_path / "file").touch()
    [finding] = examine(replace(no_cluster, results=str(tmp_path / "file" / "results")))
    assert (finding.what, finding.level) == ("results", Level.MISSING) and "results_dir" in finding.advice


def test_a_port_that_is_taken_and_a_folder_that_is_not_here_are_missing_without_a_cluster_too(tmp_path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = ("127.0.0.1", taken.getsockname()[1])
        absent = ModelFolder(key="policy.model", path=str(tmp_path / "absent"))
        port, folder = examine_here(Wanted(endpoint=endpoint, folders=(absent,)))
    assert port.what == "port" and "Address already in use" in port.found
    assert port.level is folder.level is Level.MISSING

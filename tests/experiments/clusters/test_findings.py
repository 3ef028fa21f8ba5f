"""What the nodes' reports mean, without a cluster."""

from dataclasses import replace
from typing import Any

import pytest

from experiments.clusters.findings import node_findings
from experiments.clusters.nodes import NodeReport
from experiments.clusters.wanted import ModelFolder, Wanted
from experiments.doctor import Finding, Level

VERSIONS = {"python": "3.11.9", "headrace": "0.1.0", "ray": "2.60.0", "torch": "2.13.0", "vllm": "0.32.0"}
HERE: dict[str, Any] = {
    "versions": VERSIONS,
    "source": "abcd1234",
    "torch_gpus": 0,
    "folders": {"/models/policy": {"config.json": 10, "model.safetensors": 1000}},
    "sees_probe": True,
    "shm_gib": 8.0,
    "results_gib": 100.0,
}
WANTED = Wanted(folders=(ModelFolder(key="policy.model", path="/models/policy"),))
SOUND = NodeReport(where="node-b 1a2b3c", ray_gpus=0, has=HERE, skew_s=0.01, skew_error_s=0.002)


def found(report: NodeReport, wanted: Wanted = WANTED) -> dict[str, Finding]:
    return {finding.what: finding for finding in node_findings(report, HERE, wanted)}


def with_(**changes: Any) -> NodeReport:
    return replace(SOUND, has={**HERE, **changes})


def test_a_node_that_has_all_is_sound_and_each_row_says_where() -> None:
    findings = found(SOUND)
    assert {finding.level for finding in findings.values()} == {Level.OK}
    assert {finding.where for finding in findings.values()} == {"node-b 1a2b3c"}
    assert set(VERSIONS) | {"GPUs", "policy.model", "results", "/dev/shm", "results disk", "clock"} == set(findings)


@pytest.mark.parametrize(
    ("part", "there", "level"),
    [
        ("ray", "2.59.0", Level.MISSING),
        ("headrace", "0.0.9", Level.NOTE),  # the hash says that the source is the same
        ("python", "3.12.1", Level.MISSING),
        ("python", "3.11.2", Level.NOTE),
        ("torch", "2.13.0+cu129", Level.NOTE),
        ("torch", None, Level.MISSING),
        ("vllm", None, Level.MISSING),
    ],
)
def test_another_version_is_told_with_ours(part: str, there: str | None, level: Level) -> None:
    finding = found(with_(versions={**VERSIONS, part: there}))[part]
    assert finding.level is level and (there or "not installed") in finding.found
    assert VERSIONS[part] in finding.wanted and finding.advice


def test_the_same_version_of_another_source_is_another_headrace() -> None:
    finding = found(with_(source="ffff0000"))["headrace"]
    assert finding.level is Level.MISSING
    assert (finding.found, finding.wanted) == ("0.1.0, source ffff0000", "0.1.0, source abcd1234")


def test_a_node_without_headrace_is_told_of_the_runtime_environment() -> None:
    finding = found(with_(versions={**VERSIONS, "headrace": None}, source=None))["headrace"]
    assert finding.level is Level.MISSING and "ray.runtime_env.working_dir" in finding.advice


def test_vllm_is_not_wanted_where_servers_write() -> None:
    report = with_(versions={**VERSIONS, "vllm": None})
    assert found(report, replace(WANTED, vllm=False))["vllm"].level is Level.OK


@pytest.mark.parametrize(
    ("counted", "seen", "level"),
    [
        (2, 2, Level.OK),
        (2, 0, Level.MISSING),
        (0, 2, Level.NOTE),
        (2, "no module named torch", Level.MISSING),
        (0, "no module named torch", Level.NOTE),
    ],
)
def test_gpus_that_ray_counts_must_be_seen_by_torch(counted: float, seen: int | str, level: Level) -> None:
    finding = found(replace(with_(torch_gpus=seen), ray_gpus=counted))["GPUs"]
    assert finding.level is level and finding.wanted == f"Ray counts {counted}"


def test_a_folder_that_is_not_there_and_one_that_was_cut_off_are_missing() -> None:
    absent = found(with_(folders={"/models/policy": "No such file or directory: /models/policy"}))["policy.model"]
    assert absent.level is Level.MISSING and "No such file" in absent.found
    cut = found(with_(folders={"/models/policy": {"config.json": 10, "model.safetensors": 7}}))["policy.model"]
    assert cut.level is Level.MISSING and "model.safetensors differ in size" in cut.found


def test_results_that_are_not_shared_are_a_note_and_their_disk_there_does_not_matter() -> None:
    findings = found(with_(sees_probe=False, results_gib=None))
    assert findings["results"].level is Level.NOTE and "--resume" in findings["results"].advice
    assert "results disk" not in findings


def test_little_room_is_a_note() -> None:
    findings = found(with_(shm_gib=0.06, results_gib=0.5))
    assert findings["/dev/shm"].level is findings["results disk"].level is Level.NOTE


@pytest.mark.parametrize(
    ("skew_s", "error_s", "level"), [(2.0, 0.1, Level.NOTE), (-2.0, 0.1, Level.NOTE), (2.0, 1.5, Level.OK)]
)
def test_clocks_differ_where_the_round_trip_does_not_explain_it(skew_s: float, error_s: float, level: Level) -> None:
    assert found(replace(SOUND, skew_s=skew_s, skew_error_s=error_s))["clock"].level is level


def test_a_silent_node_is_one_row() -> None:
    findings = found(replace(SOUND, has={}, skew_s=None, silent="no answer within 90 s"))
    assert list(findings) == ["answer"]
    assert findings["answer"].level is Level.MISSING and findings["answer"].found == "no answer within 90 s"

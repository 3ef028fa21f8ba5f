"""What the nodes' reports mean: pure functions from what each has, and what is wanted, to findings."""

from collections.abc import Iterator, Mapping
from typing import Any

from experiments.clusters.nodes import NodeReport
from experiments.clusters.wanted import ModelFolder, Wanted
from experiments.doctor import Finding, Level

MOST_SKEW_S = 1.0
LEAST_SHM_GIB = 1.0
LEAST_DISK_GIB = 1.0


def node_findings(report: NodeReport, here: Mapping[str, Any], wanted: Wanted) -> Iterator[Finding]:
    """Of one node. `here` is what this machine has, in the form of `report.has`."""
    if report.silent:
        yield Finding(
            what="answer",
            where=report.where,
            level=Level.MISSING,
            found=report.silent,
            wanted="an answer",
            advice="look at the node, and at Ray's logs there",
        )
        return
    yield from _versions(report, here, wanted)
    yield _gpus(report)
    for folder in wanted.folders:
        yield _folder(report, here, folder)
    yield _results(report, wanted)
    yield _free(report, "shm_gib", "/dev/shm", LEAST_SHM_GIB, "more shared memory (in a pod: an emptyDir in memory)")
    if report.has["sees_probe"]:
        yield _free(report, "results_gib", "results disk", LEAST_DISK_GIB, "free some, or set results_dir")
    yield _clock(report)


def _versions(report: NodeReport, here: Mapping[str, Any], wanted: Wanted) -> Iterator[Finding]:
    for name, got in report.has["versions"].items():
        want = here["versions"][name]
        level, advice = Level.OK, ""
        if name == "headrace" and report.has["source"] is not None:
            got, want = f"{got or 'no version'}, source {report.has['source']}", f"{want}, source {here['source']}"
        if got is None:
            needed = name != "vllm" or wanted.vllm
            level = Level.MISSING if needed else Level.OK
            if needed:
                advice = "install it there" + (", or set ray.runtime_env.working_dir" if name == "headrace" else "")
        elif got != want and name == "headrace" and got.split(", ")[1:] == want.split(", ")[1:]:
            level, advice = Level.NOTE, "the same source, installed otherwise"
        elif got != want:
            strict = name in ("headrace", "ray") or (name == "python" and _minor(got) != _minor(want))
            level = Level.MISSING if strict else Level.NOTE
            advice = "install the same here and there"
        yield Finding(
            what=name,
            where=report.where,
            level=level,
            found=got or "not installed",
            wanted=want or "any",
            advice=advice,
        )


def _minor(version: str) -> list[str]:
    return version.split(".")[:2]


def _gpus(report: NodeReport) -> Finding:
    seen, counted = report.has["torch_gpus"], report.ray_gpus
    level, advice = Level.OK, ""
    if isinstance(seen, str):
        level, advice = (Level.MISSING if counted else Level.NOTE), "find out why torch does not start there"
    elif seen < counted:
        level, advice = Level.MISSING, "the driver, or a build of torch for CUDA; or ray start --num-gpus"
    elif seen > counted:
        level, advice = Level.NOTE, f"{seen - counted:g} stay unused: ray start --num-gpus={seen}"
    found = seen if isinstance(seen, str) else f"torch sees {seen}"
    return Finding(
        what="GPUs", where=report.where, level=level, found=found, wanted=f"Ray counts {counted:g}", advice=advice
    )


def _folder(report: NodeReport, here: Mapping[str, Any], folder: ModelFolder) -> Finding:
    got, want = report.has["folders"][folder.path], here["folders"][folder.path]
    level, advice = Level.OK, ""
    if isinstance(got, str):
        found, level, advice = got, Level.MISSING, "copy the folder there, or use a disk that the nodes share"
    else:
        found = f"{len(got)} files"
        if isinstance(want, dict) and (other := sorted(n for n in {**got, **want} if got.get(n) != want.get(n))):
            found, level = f"{found}; {', '.join(other[:3])} differ in size", Level.MISSING
            advice = "copy the folder again"
    wanted = folder.path if isinstance(want, str) else f"{folder.path}, {len(want)} files"
    return Finding(what=folder.key, where=report.where, level=level, found=found, wanted=wanted, advice=advice)


def _results(report: NodeReport, wanted: Wanted) -> Finding:
    """Only the machine that runs the command writes results: so it is no fault."""
    seen = report.has["sees_probe"]
    return Finding(
        what="results",
        where=report.where,
        level=Level.OK if seen else Level.NOTE,
        found="shared" if seen else "not shared",
        wanted=wanted.results,
        advice="" if seen else "only this machine writes them: --resume must run here",
    )


def _free(report: NodeReport, key: str, what: str, least: float, advice: str) -> Finding:
    free = report.has[key]
    enough = free is not None and free >= least
    return Finding(
        what=what,
        where=report.where,
        level=Level.OK if enough else Level.NOTE,
        found="none" if free is None else f"{free:.1f} GiB free",
        wanted=f">= {least:g} GiB",
        advice="" if enough else advice,
    )


def _clock(report: NodeReport) -> Finding:
    assert report.skew_s is not None
    off = abs(report.skew_s) - report.skew_error_s > MOST_SKEW_S
    return Finding(
        what="clock",
        where=report.where,
        level=Level.NOTE if off else Level.OK,
        found=f"{report.skew_s:+.3f} s, give or take {report.skew_error_s:.3f} s",
        wanted=f"within {MOST_SKEW_S:g} s",
        advice="synchronise the clocks (NTP)" if off else "",
    )

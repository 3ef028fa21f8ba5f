"""What the page shows of one run, as values: read once, and told in the same words everywhere."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.analysis.curves import SampleCurves, sample_curves, tidy
from experiments.analysis.examples import Example, worst_and_best
from experiments.analysis.findings import Finding, findings
from experiments.analysis.pairwise import ComparedPair, compare_all, methods_of
from experiments.analysis.run_settings import read_settings
from experiments.analysis.summary import Summary, summary
from orchestrator.core.errors import UserError
from orchestrator.results import read_results

_LOGIN = re.compile(r"(?<=://)[^/@\s]+(?=@)")  # of a URL, as in https://name:password@host


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A results folder as the report tells it."""

    name: str
    folder: Path
    problems: pd.DataFrame
    pool: SampleCurves | None
    tidy: pd.DataFrame
    summary: Summary
    tested: Sequence[ComparedPair]
    findings: Sequence[Finding]
    worst: Sequence[Example]
    best: Sequence[Example]
    facts: Mapping[str, str]
    config: str
    versions: Mapping[str, str]


def read_view(folder: Path) -> RunView:
    """Of a results folder, also of an older version. Raises UserError."""
    problems, candidates = read_results(folder)
    pool = sample_curves(problems, candidates)
    points = tidy(problems, pool)
    found = methods_of(problems, pool)
    tested = compare_all(found)
    worst, best = worst_and_best(folder, problems, candidates)
    return RunView(
        name=folder.resolve().name,
        folder=folder,
        problems=problems,
        pool=pool,
        tidy=points,
        summary=summary(problems, candidates, pool, points),
        tested=tested,
        findings=findings(problems, candidates, pool, found, tested),
        worst=worst,
        best=best,
        facts=_facts(folder, problems, candidates),
        config=_LOGIN.sub("***", (folder / "run.yaml").read_text(encoding="utf-8")),
        versions=_versions(folder / "versions.json"),
    )


def _facts(folder: Path, problems: pd.DataFrame, candidates: pd.DataFrame) -> dict[str, str]:
    """What a reader asks first."""
    return {
        "policy": _listed(problems["policy_model"]),
        "verifier": _listed(problems["verifier_model"].dropna()) or "none",
        "data": read_settings(folder).data() or "not told",
        "problems": f"{problems['problem_id'].nunique():,}",
        "seeds": _listed(problems["seed"].sort_values()),
        "searches": f"{len(problems):,}",
        "candidates": f"{len(candidates):,}",
        "tokens sampled": f"{problems['generated_tokens'].sum():,}",
        "began": f"{problems['started_at'].min():%Y-%m-%d %H:%M} UTC",
        "ended": f"{problems['finished_at'].max():%Y-%m-%d %H:%M} UTC",
        "version of Headrace": _listed(problems["version"]),
    }


def _listed(values: "pd.Series[Any]") -> str:
    return ", ".join(str(value) for value in dict.fromkeys(values))


def _versions(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"results: {path} can't be read: {error}") from error
    return {str(name): str(version) for name, version in found.items()}

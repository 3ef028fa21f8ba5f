"""The table of `headrace judge`: what each verifier finds among the same solutions, and what it costs.

It is made of Parquet alone.
"""

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from experiments.analysis.intervals import Interval, bootstrap_mean, bootstrap_problems
from experiments.analysis.metrics import SampleSet, prm_at_k, sample_set, vote_at_k
from experiments.analysis.tables import Cells, percent, si
from experiments.judging.rows import read_judgements
from experiments.judging.run import JudgePlan
from orchestrator.core.errors import UserError
from strategies.aggregation import Aggregation, aggregate
from verifiers.metrics import auroc, first_error_accuracy, labelled_steps

TABLE = "verifiers.md"
_NUM_RESAMPLES = 200


def table(plan: JudgePlan) -> Cells:
    """Of the problems that every verifier has judged; written into the folder, too. Raises UserError for none."""
    n, how = plan.config.n, plan.config.aggregation
    found = {name: read_judgements(plan.folder / name) for name in plan.verifiers}
    common = reduce(set.intersection, (set(costs["problem_id"]) for _, costs in found.values()))
    if not common:
        raise UserError(f"judge: there is no problem in {plan.folder} that all verifiers have judged")
    rows = []
    for name, verifier in plan.verifiers.items():
        judged, costs = (frame[frame["problem_id"].isin(common)] for frame in found[name])
        rows.append(_line(name, judged, costs, how, by_steps=verifier.scores_steps))
    pools = _pools(judged, how)
    by_chance = np.mean([np.mean(pool.correct) for pool in pools])
    by_majority = np.mean([vote_at_k(pool, [len(pool)], weighted=False)[len(pool)] for pool in pools])
    cells = Cells(
        title=f"Verifiers on {len(common)} problems, {n} solutions each (%, bootstrap 95% interval over "
        f"problems); a random choice is right in {by_chance:.1%}, a majority in {by_majority:.1%}",
        headers=(
            "verifier",
            "step AUROC",
            "first error",
            f"best-of-{n}",
            f"weighted@{n}",
            "tokens",
            "FLOPs",
            "not judged",
        ),
        rows=rows,
        wide=(f"weighted@{n}", "FLOPs", "not judged"),
    )
    (plan.folder / TABLE).write_text(cells.markdown() + "\n", encoding="utf-8")
    return cells


def _line(name: str, judged: pd.DataFrame, costs: pd.DataFrame, how: Aggregation, *, by_steps: bool) -> list[str]:
    """Tokens and FLOPs are per solution."""
    groups = [group for _, group in judged.groupby("problem_id", sort=False)]
    pools = _pools(judged, how)
    chosen = bootstrap_mean([prm_at_k(pool, len(pool)) for pool in pools])
    voted = bootstrap_mean([vote_at_k(pool, [len(pool)], weighted=True)[len(pool)] for pool in pools])
    by_problem = [(_rows(group, "scores"), _rows(group, "labels")) for group in groups if group["scores"].notna().any()]
    known = any(label is not None for _, rows in by_problem for row in rows for label in row)
    steps, first = "-", "-"
    if by_steps and known:
        found = _auroc(by_problem)
        steps = "-" if found is None else percent(found)
        first = percent(bootstrap_mean([first_error_accuracy(scores, labels) for scores, labels in by_problem]))
    return [
        name,
        steps,
        first,
        percent(chosen),
        percent(voted),
        f"{costs['verifier_tokens'].sum() / len(judged):,.0f}",
        si(costs["verifier_flops"].sum() / len(judged)),
        f"{judged['scores'].isna().mean():.1%}",
    ]


def _pools(judged: pd.DataFrame, how: Aggregation) -> list[SampleSet]:
    """By problem. Raises UserError where no solution could be graded."""
    scores = [None if row is None else aggregate([s for s in row if s is not None], how) for row in judged["scores"]]
    ranked = judged.assign(aggregate_score=scores, step_scores=judged["scores"])
    groups = ranked.groupby("problem_id", sort=False)
    pools = [pool for _, group in groups if (pool := sample_set(group)) is not None]
    if not pools:
        raise UserError("judge: not one solution could be graded")
    return pools


def _rows(group: pd.DataFrame, column: str) -> list[list[float]]:
    return [list(row) for row in group[group["scores"].notna()][column]]


def _auroc(by_problem: Sequence[tuple[list[list[float]], list[list[float]]]]) -> Interval | None:
    """Over all steps of all solutions, with an interval by a bootstrap over problems; None where no step, or each, is
    right."""

    def over(steps: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]) -> float | None:
        truths = np.concatenate([right for _, right in steps])
        return None if truths.all() or not truths.any() else auroc(np.concatenate([s for s, _ in steps]), truths)

    steps = [labelled_steps(scores, labels) for scores, labels in by_problem]
    return bootstrap_problems(steps, over, num_resamples=_NUM_RESAMPLES)

"""The rows of a results folder as values: what was graded, by problem and seed, and the samples that metrics are of."""

from collections.abc import Mapping, Sequence

import pandas as pd

from experiments.analysis.frontier import Costs, Outcome
from experiments.analysis.largest import largest_sample
from experiments.analysis.metrics import SampleSet, sample_set


def graded(problems: pd.DataFrame) -> pd.DataFrame:
    """The rows that count in an accuracy: no error, and decided by the grader."""
    return problems[(problems["status"] == "ok") & problems["correct"].notna()]


def accuracies(rows: pd.DataFrame) -> dict[str, float]:
    """problem -> accuracy over its seeds, of the graded rows of one strategy."""
    rates = rows["correct"].astype(float).groupby(rows["problem_id"]).mean()
    return {str(problem): float(rate) for problem, rate in rates.items()}


def outcomes(rows: pd.DataFrame) -> dict[str, Outcome]:
    """problem -> accuracy and costs, means over its seeds, of the graded rows of one strategy."""
    costs = pd.DataFrame(
        {
            "correct": rows["correct"].astype(float),
            "tokens": rows["generated_tokens"] + rows["verifier_tokens"],
            "flops": rows["policy_flops"] + rows["verifier_flops"],
            "seconds": rows["wall_s"],
        }
    )
    means = costs.groupby(rows["problem_id"]).mean()
    return {
        str(row.Index): Outcome(
            accuracy=float(row.correct),
            costs=Costs(tokens=float(row.tokens), flops=float(row.flops), seconds=float(row.seconds)),
        )
        for row in means.itertuples()
    }


def strategy_outcomes(problems: pd.DataFrame) -> dict[str, dict[str, Outcome]]:
    """label -> problem -> outcome, of every strategy of a run that has a graded row: what `frontier` is made of."""
    groups = graded(problems).groupby(["strategy", "params", "label"], sort=False)
    return {str(label): outcomes(rows) for (_, _, label), rows in groups}


def largest_sample_sets(problems: pd.DataFrame, candidates: pd.DataFrame) -> Mapping[str, Sequence[SampleSet]]:
    """problem -> the samples of each of its seeds, of the strategy that drew most; empty where none drew any."""
    largest = largest_sample(problems)
    if largest is None:
        return {}
    strategy, params = largest
    samples = candidates[(candidates["strategy"] == strategy) & (candidates["params"] == params)]
    found: dict[str, list[SampleSet]] = {}
    for (problem, _), rows in samples.groupby(["problem_id", "seed"]):
        if (pool := sample_set(rows)) is not None:
            found.setdefault(str(problem), []).append(pool)
    return found

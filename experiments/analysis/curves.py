"""Accuracy against what it cost: what k of the largest set of samples would have given, and strategies as they ran."""

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

import pandas as pd

from experiments.analysis.frames import accuracies, graded
from experiments.analysis.intervals import Interval, bootstrap_mean, wilson_interval
from experiments.analysis.largest import SAMPLED_STRATEGIES, largest_sample
from experiments.analysis.metrics import metrics_at_k, powers_of_two, sample_set

JUDGED_METRICS = ("prm@k", "weighted@k")  # those that pay the verifier

_GROUP = ["strategy", "params", "label"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCurves:
    """The largest set of samples in a run, and what it says at each k: metric -> k -> problem -> chance."""

    label: str
    num_samples: int
    values: Mapping[str, Mapping[int, Mapping[str, float]]]
    costs: Mapping[int, Mapping[str, float]]  # k -> generated_tokens, policy_flops, verifier_flops per problem


def curves(problems: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """Every point of the compute-accuracy picture, one per row.

    `kind` is "curve" for metrics of the largest pool of samples at k = 1, 2, 4, ... and "point" for the other
    strategies as they ran. Costs are means per problem; k of N samples cost k/N of the pool, without the verifier
    where the metric does not ask it.
    """
    return tidy(problems, sample_curves(problems, candidates))


def tidy(problems: pd.DataFrame, pool: SampleCurves | None) -> pd.DataFrame:
    """As `curves`, of a pool that is known."""
    rows: list[dict[str, object]] = []
    metrics = [] if pool is None else [(pool, metric, by_k) for metric, by_k in pool.values.items()]
    for pool, metric, by_k in metrics:
        for k, by_problem in by_k.items():
            cost = dict(pool.costs[k])
            if metric not in JUDGED_METRICS:
                cost["verifier_flops"] = 0.0
            interval = bootstrap_mean(list(by_problem.values()))
            rows.append(_point("curve", metric, pool.label, k, len(by_problem), interval, cost))
    for (strategy, _, label), group in graded(problems).groupby(_GROUP, sort=False):
        if strategy not in SAMPLED_STRATEGIES or pool is None:
            cost = {name: group[name].mean() for name in ("generated_tokens", "policy_flops", "verifier_flops")}
            n = group["n"].iloc[0]
            rows.append(_point("point", strategy, label, None if pd.isna(n) else int(n), *accuracy(group), cost))
    return pd.DataFrame(rows)


def sample_curves(problems: pd.DataFrame, candidates: pd.DataFrame) -> SampleCurves | None:
    """The strategy row with the most independent samples per problem (judged ones first), or None.

    A problem with fewer samples than k, because a budget ended it, counts with those that it has. Several seeds
    of a problem are averaged.
    """
    largest = largest_sample(problems)
    if largest is None:
        return None
    strategy, params = largest
    counted = graded(problems)
    rows = counted[(counted["strategy"] == strategy) & (counted["params"] == params) & (counted["num_candidates"] > 0)]
    samples = candidates[(candidates["strategy"] == strategy) & (candidates["params"] == params)]
    found = {key: sample_set(group) for key, group in samples.groupby(["problem_id", "seed"])}
    pools = {key: pool for key, pool in found.items() if pool is not None}
    if not pools or rows.empty:
        return None
    num_samples = max(len(pool) for pool in pools.values())
    ks = powers_of_two(num_samples)

    values: dict[str, dict[int, dict[str, list[float]]]] = {}
    costs: dict[int, dict[str, list[float]]] = {k: {} for k in ks}
    for row in rows.itertuples():
        if (pool := pools.get((row.problem_id, row.seed))) is None:
            continue
        for metric, by_k in metrics_at_k(pool, ks, seed=zlib.crc32(row.problem_id.encode())).items():
            for k, value in by_k.items():
                values.setdefault(metric, {}).setdefault(k, {}).setdefault(row.problem_id, []).append(value)
        for k in ks:
            for name in ("generated_tokens", "policy_flops", "verifier_flops"):
                share = min(k, len(pool)) / len(pool)
                costs[k].setdefault(name, []).append(getattr(row, name) * share)
    return SampleCurves(
        label=str(rows["label"].iloc[0]),
        num_samples=num_samples,
        values={
            metric: {
                k: {problem: fmean(chances) for problem, chances in by_problem.items()} for k, by_problem in m.items()
            }
            for metric, m in values.items()
        },
        costs={k: {name: fmean(cost) for name, cost in by_name.items()} for k, by_name in costs.items()},
    )


def accuracy(group: pd.DataFrame) -> tuple[int, Interval]:
    """Problems, and accuracy with Wilson's interval. Seeds are averaged first: problems are what is independent."""
    by_problem = accuracies(group)
    total = len(by_problem)
    return total, wilson_interval(min(total, sum(by_problem.values())), total)


def _point(
    kind: str,
    metric: str,
    label: str,
    k: int | None,
    num_problems: int,
    interval: Interval,
    cost: Mapping[str, float],
) -> dict[str, object]:
    return {
        "kind": kind,
        "series": metric,
        "label": label,
        "k": k,
        "num_problems": num_problems,
        "accuracy": interval.value,
        "low": interval.low,
        "high": interval.high,
        "generated_tokens": cost["generated_tokens"],
        "policy_flops": cost["policy_flops"],
        "verifier_flops": cost["verifier_flops"],
        "total_flops": cost["policy_flops"] + cost["verifier_flops"],
    }

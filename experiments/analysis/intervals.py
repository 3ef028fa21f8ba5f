"""Estimates with 95% intervals, and what each interval is over. Pure: numbers in, numbers out.

A mean over problems moves when other problems are drawn and when the same problems are searched under other seeds.
Seeds of different problems are independent (they derive from the run's seed and the problem's id), so the two variances
add, and the spread of the problems' means holds both (the law of total variance; Miller, arXiv 2411.00640, section 3).
`Over` says which of the two an interval allows for.
"""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean, variance
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

T = TypeVar("T")
Z_95 = 1.959963984540054  # the normal distribution's 97.5% quantile


class Over(StrEnum):
    """What is drawn anew, in thought, when an interval says how far an estimate would move."""

    PROBLEMS = "problems"  # other problems of this kind, each searched under so many seeds that they no longer matter
    SEEDS = "seeds"  # the same problems under other seeds: what running again would give
    BOTH = "problems and seeds"  # other problems, and as many seeds for each as there were


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An estimate with its 95% interval."""

    value: float
    low: float
    high: float
    over: Over


def wilson_interval(successes: float, total: int) -> Interval:
    """A proportion of problems with Wilson's score interval (1927), over problems and seeds. `successes` may be
    fractional (means over seeds): the interval is then wider than it must be. Raises ValueError."""
    if total < 1 or not 0 <= successes <= total:
        raise ValueError(f"wilson_interval: wanted 0 <= successes <= total and total >= 1, got {successes} of {total}")
    rate, z2 = successes / total, Z_95**2
    centre = (rate + z2 / (2 * total)) / (1 + z2 / total)
    half = Z_95 / (1 + z2 / total) * math.sqrt(rate * (1 - rate) / total + z2 / (4 * total**2))
    return Interval(
        value=rate,
        low=min(rate, max(0.0, centre - half)),
        high=max(rate, min(1.0, centre + half)),
        over=Over.BOTH,
    )


def bootstrap_mean(values: Sequence[float], *, num_resamples: int = 2000, seed: int = 0) -> Interval:
    """The mean of one value per problem, with the percentile interval of resampling problems (Efron, 1979), over
    problems and seeds. Raises ValueError where there is none."""
    if not values:
        raise ValueError("bootstrap_mean: wanted at least one value, got none")
    array = np.asarray(values, float)
    counts = _resampled_counts(len(array), num_resamples, seed)
    low, high = np.quantile(counts @ array / len(array), [0.025, 0.975])
    return Interval(value=float(array.mean()), low=float(low), high=float(high), over=Over.BOTH)


def bootstrap_problems(
    problems: Sequence[T],
    statistic: Callable[[Sequence[T]], float | None],
    *,
    num_resamples: int = 1000,
    seed: int = 0,
) -> Interval | None:
    """Any statistic of a list of problems, with the percentile interval of resampling them, over problems and seeds.

    A statistic is None where it has no value (AUROC of one class). Such resamples are left out; None where the
    problems themselves have no value. Raises ValueError without a problem.
    """
    if not problems:
        raise ValueError("bootstrap_problems: wanted at least one problem, got none")
    value = statistic(problems)
    if value is None:
        return None
    rng = np.random.default_rng(seed)
    draws = rng.integers(len(problems), size=(num_resamples, len(problems)))
    found = [statistic([problems[index] for index in draw]) for draw in draws.tolist()]
    low, high = np.quantile([drawn for drawn in found if drawn is not None] or [value], [0.025, 0.975])
    return Interval(value=value, low=float(low), high=float(high), over=Over.BOTH)


def clustered_standard_error(values: Sequence[float], clusters: Sequence[Hashable]) -> float:
    """The standard error of the mean of rows that are alike within clusters, such as a problem's seeds or the questions
    on one text: the root of the summed squares of the clusters' residual sums, over n (Miller, arXiv 2411.00640,
    section 2.2), times the root of G / (G - 1) for G clusters, so that clusters of one row give the usual error.
    Over whatever the clusters are. Raises ValueError for fewer than two clusters.
    """
    if len(values) != len(clusters) or len(set(clusters)) < 2:
        raise ValueError(
            "clustered_standard_error: wanted a cluster for each value and two different ones, "
            f"got {len(values)} values, {len(clusters)} clusters, {len(set(clusters))} different"
        )
    mean = fmean(values)
    sums: dict[Hashable, float] = {}
    for value, cluster in zip(values, clusters, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + value - mean
    num_clusters = len(sums)
    return math.sqrt(sum(total**2 for total in sums.values()) * num_clusters / (num_clusters - 1)) / len(values)


def mean_over(by_problem: Mapping[str, Sequence[float]], over: Over) -> Interval:
    """The mean over problems of each problem's mean over its seeds, with the normal interval over what is asked for.

    `by_problem` holds one value per seed. Over problems and seeds: the spread of the problems' means. Over seeds: the
    spread within problems. Over problems: the first variance less the second, and no less than 0. Raises ValueError for
    fewer than two problems, or two seeds of each problem where seeds are to be told apart.
    """
    if len(by_problem) < 2:
        raise ValueError(f"mean_over: wanted at least 2 problems, got {len(by_problem)}")
    fewest = min(len(values) for values in by_problem.values())
    if fewest < (1 if over is Over.BOTH else 2):
        wanted = "1 value" if over is Over.BOTH else "2 seeds (one seed can't tell its noise from the problem's)"
        raise ValueError(f"mean_over: over {over} wanted at least {wanted} of each problem, got {fewest}")
    means = [fmean(values) for values in by_problem.values()]
    both = variance(means) / len(means)
    if over is Over.BOTH:
        squared = both
    else:
        seeds = sum(variance(values) / len(values) for values in by_problem.values()) / len(means) ** 2
        squared = seeds if over is Over.SEEDS else max(0.0, both - seeds)
    half = Z_95 * math.sqrt(squared)
    return Interval(value=fmean(means), low=fmean(means) - half, high=fmean(means) + half, over=over)


def _resampled_counts(size: int, num_resamples: int, seed: int) -> npt.NDArray[Any]:
    """How often each problem was drawn, (num_resamples, size)."""
    return np.random.default_rng(seed).multinomial(size, np.full(size, 1 / size), size=num_resamples)

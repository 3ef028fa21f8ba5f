"""Paired comparisons on the same problems, and p-values of many comparisons at once. Pure: numbers in, numbers out.

A problem that is hard for one is hard for the other. Pairing takes that shared part out of the difference, so that far
fewer problems show it than intervals side by side would need (Miller, arXiv 2411.00640, section 4).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from experiments.analysis.intervals import Z_95, Interval, Over, bootstrap_mean, wilson_interval

_ENUMERATED = 16  # problems that differ, up to which all signs are tried
_TINY = 1e-9  # equal sums, whatever their order of adding


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedComparison:
    """Two accuracies on the same problems. All intervals are over problems and seeds."""

    num_problems: int
    better: int  # problems on which ours is better
    worse: int
    ours: Interval
    theirs: Interval
    difference: Interval  # ours - theirs
    p_value: float  # two-sided, of no difference


def compare_paired(ours: Mapping[str, float], theirs: Mapping[str, float]) -> PairedComparison:
    """Ours against theirs on the problems (keys) that both have. Values are accuracies in 0..1, means over seeds.

    The difference has `difference_interval`, each side Wilson's. The p-value is McNemar's exact one where each problem
    is right or wrong, else that of `sign_flip_test`. Raises ValueError without a shared problem.
    """
    shared = _shared(ours, theirs)
    differences = [ours[problem] - theirs[problem] for problem in shared]
    better, worse = sum(d > _TINY for d in differences), sum(d < -_TINY for d in differences)
    all_or_nothing = all(min(abs(d), abs(abs(d) - 1)) <= _TINY for d in differences)
    return PairedComparison(
        num_problems=len(shared),
        better=better,
        worse=worse,
        ours=_accuracy([ours[problem] for problem in shared]),
        theirs=_accuracy([theirs[problem] for problem in shared]),
        difference=difference_interval(differences),
        p_value=mcnemar_exact(better, worse) if all_or_nothing else sign_flip_test(differences),
    )


def paired_difference(ours: Mapping[str, float], theirs: Mapping[str, float]) -> Interval:
    """Mean of `ours - theirs` over the problems (keys) that both have, with its bootstrap interval over problems and
    seeds."""
    return bootstrap_mean([ours[problem] - theirs[problem] for problem in _shared(ours, theirs)])


def difference_interval(differences: Sequence[float]) -> Interval:
    """The mean of paired differences in -1..1, with an interval over problems and seeds that has a width also where
    all are equal, which a bootstrap has not: the normal interval after adding one problem won and one lost.

    For differences of -1, 0 and 1 this is the adjusted Wald interval of Bonett and Price (J. Educ. Behav. Stat. 37,
    2012). Raises ValueError without differences or for one outside -1..1.
    """
    if not differences or not all(-1 <= d <= 1 for d in differences):
        got = next((d for d in differences if not -1 <= d <= 1), "none")
        raise ValueError(f"difference_interval: wanted differences in -1..1, at least one, got {got}")
    size = len(differences) + 2
    centre = math.fsum(differences) / size
    squared = (math.fsum(d * d for d in differences) + 2) / size - centre**2
    half, value = Z_95 * math.sqrt(squared / size), fmean(differences)
    return Interval(
        value=value, low=min(value, max(-1.0, centre - half)), high=max(value, min(1.0, centre + half)), over=Over.BOTH
    )


def mcnemar_exact(only_ours: int, only_theirs: int) -> float:
    """Two-sided p-value of McNemar's exact test: of the problems that only one of two solves, is each side's share a
    half? Over problems. Raises ValueError for negative counts."""
    if min(only_ours, only_theirs) < 0:
        raise ValueError(f"mcnemar_exact: wanted counts >= 0, got {only_ours} and {only_theirs}")
    total = only_ours + only_theirs
    tail = sum(math.comb(total, i) for i in range(min(only_ours, only_theirs) + 1))
    return min(1.0, float(2 * tail / 2**total))


def sign_flip_test(differences: Sequence[float], *, num_draws: int = 20_000, seed: int = 0) -> float:
    """Two-sided p-value of a mean difference of 0: how often differences with random signs sum up as far from 0
    (Fisher's randomisation test for pairs). Over problems.

    Exact up to 16 problems that differ; beyond, over `num_draws` random signs, themselves counted among them, so that
    no p-value is 0 (Phipson and Smyth, arXiv 1603.05766). Raises ValueError without differences.
    """
    if not differences:
        raise ValueError("sign_flip_test: wanted at least one difference, got none")
    changed = np.array([d for d in differences if abs(d) > _TINY])
    reached = abs(changed.sum()) - _TINY
    if len(changed) <= _ENUMERATED:
        signs = 1 - 2 * (np.arange(1 << len(changed))[:, None] >> np.arange(len(changed)) & 1)
        return float(np.mean(np.abs(signs @ changed) >= reached))
    rng = np.random.default_rng(seed)
    hits = 0
    for size in _parts(num_draws):
        signs = 1 - 2 * rng.integers(2, size=(size, len(changed)), dtype=np.int8)
        hits += int(np.sum(np.abs(signs @ changed) >= reached))
    return (1 + hits) / (1 + num_draws)


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order: below 0.05, and the chance of one false finding among all is below 5%,
    whatever their dependence (Holm, Scand. J. Stat. 6, 1979). Raises ValueError outside 0..1."""
    _check_p_values("holm", p_values)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values, in the given order: of those below 0.05, 5% are expected to be false findings, where tests are
    independent or go together (Benjamini and Hochberg, J. R. Stat. Soc. B 57, 1995). Raises ValueError outside 0..1."""
    _check_p_values("benjamini_hochberg", p_values)
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted, smallest = [1.0] * len(p_values), 1.0
    for rank, index in reversed(list(enumerate(order, start=1))):
        smallest = min(smallest, p_values[index] * len(order) / rank)
        adjusted[index] = smallest
    return adjusted


def _shared(ours: Mapping[str, float], theirs: Mapping[str, float]) -> list[str]:
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        raise ValueError(
            f"paired: the two have no problem in common, got {len(ours)} problems of ours and {len(theirs)} of theirs"
        )
    return shared


def _accuracy(values: Sequence[float]) -> Interval:
    return wilson_interval(min(float(len(values)), math.fsum(values)), len(values))


def _parts(total: int, largest: int = 2000) -> list[int]:
    """`total` in parts that fit into memory."""
    return [min(largest, total - start) for start in range(0, total, largest)]


def _check_p_values(name: str, p_values: Sequence[float]) -> None:
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"{name}: wanted p-values in 0..1, got {wrong[0]}")

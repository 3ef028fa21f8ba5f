"""Difficulty of problems for a policy, and bins of it (Snell et al., arXiv 2408.03314, section 3.2). Pure.

Two notions that are never mixed. *Oracle*: the share of a problem's samples that is wrong, which needs the references.
*Predicted*: one less the verifier's mean score, which a deployment can know. Either is measured on samples; accuracies
by bin of the very same samples are biased (a lucky problem counts as easy), so measure them on others, or average the
difficulty over both sides of a comparison.
"""

from collections.abc import Iterable, Mapping
from enum import StrEnum
from statistics import fmean
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line imports this module, and not what samples are made with
    from experiments.analysis.metrics import SampleSet

NUM_BINS = 5  # quintiles, as in the paper


class Difficulty(StrEnum):
    """What problems are put into quintiles by."""

    oracle = "oracle"
    predicted = "predicted"
    dataset = "dataset"


def oracle_difficulty(samples: Mapping[str, Iterable["SampleSet"]]) -> dict[str, float]:
    """problem -> 1 - pass@1 over all samples of all its seeds, in 0..1; 1 is hardest. `samples`: by problem, one set
    for each seed. Raises ValueError for a problem without samples."""
    return {
        problem: 1 - _mean(problem, [c for pool in sets for c in pool.correct]) for problem, sets in samples.items()
    }


def predicted_difficulty(samples: Mapping[str, Iterable["SampleSet"]]) -> dict[str, float]:
    """problem -> 1 - mean score of the verifier over all samples that it judged, in 0..1 for scores in 0..1; 1 is
    hardest. Problems of which it judged no sample are left out: nothing is predicted of them."""
    scores = {
        problem: [score for pool in sets for score in pool.scores if score is not None]
        for problem, sets in samples.items()
    }
    return {problem: 1 - fmean(found) for problem, found in scores.items() if found}


def difficulty_bins(difficulty: Mapping[str, float], *, num_bins: int = NUM_BINS) -> dict[str, int]:
    """problem -> bin, 1 (easiest) to `num_bins` (hardest), of as equal sizes as ties allow.

    Problems of equal difficulty share the bin of the middle of their ranks, so that no bin depends on the order of
    problems. Where many are equal, as with few samples, bins differ in size or are empty. Raises ValueError for fewer
    problems than bins.
    """
    if num_bins < 1 or len(difficulty) < num_bins:
        raise ValueError(
            f"difficulty_bins: wanted at least as many problems as bins, got {len(difficulty)} for {num_bins}"
        )
    by_value: dict[float, list[str]] = {}
    for problem, value in difficulty.items():
        by_value.setdefault(round(value, 12), []).append(problem)
    bins, before = {}, 0
    for value in sorted(by_value):
        equal = by_value[value]
        middle = before + (len(equal) - 1) / 2
        bins.update(dict.fromkeys(equal, 1 + int(middle * num_bins / len(difficulty))))
        before += len(equal)
    return bins


def in_bins(values: Mapping[str, float], bins: Mapping[str, int]) -> dict[int, dict[str, float]]:
    """bin -> problem -> value, bins in order, of the problems that have both."""
    found: dict[int, dict[str, float]] = {}
    for problem in values.keys() & bins.keys():
        found.setdefault(bins[problem], {})[problem] = values[problem]
    return {number: dict(sorted(found[number].items())) for number in sorted(found)}


def _mean(problem: str, correct: list[bool]) -> float:
    if not correct:
        raise ValueError(f"oracle_difficulty: wanted samples of every problem, got none of {problem!r}")
    return fmean(correct)

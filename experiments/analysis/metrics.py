"""Metrics of repeated sampling, per problem and over problems. Pure: numbers in, numbers out.

`pass@k` (= coverage = oracle@k) and `prm@k` are exact expectations over all subsets of k of a problem's samples;
`maj@k` and `weighted@k` average over seeded random subsets, of the same expectation. `experiments.analysis.intervals`
has the intervals of their means.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSet:
    """Independent samples of one problem. `groups` has equal numbers for equal answers and None for no answer. A score
    of None: the verifier did not judge that sample."""

    groups: Sequence[int | None]
    correct: Sequence[bool]
    scores: Sequence[float | None]

    def __post_init__(self) -> None:
        if not len(self.groups) == len(self.correct) == len(self.scores) >= 1:
            lengths = (len(self.groups), len(self.correct), len(self.scores))
            raise ValueError(f"pool: wanted as many answers as grades and scores, and at least one, got {lengths}")

    def __len__(self) -> int:
        return len(self.groups)

    @property
    def scored(self) -> bool:
        return any(score is not None for score in self.scores)


def sample_set(candidates: pd.DataFrame) -> SampleSet | None:
    """The samples of one problem and seed, from their rows of a results folder; None where there are none. Samples that
    the grader could not decide are left out. No answer is a wrong one. What a sample was ranked by is a score where a
    verifier gave it; the policy's own confidence is none."""
    decided = candidates[candidates["correct"].notna()]
    if decided.empty:
        return None
    return SampleSet(
        groups=_groups(decided),
        correct=[bool(correct) for correct in decided["correct"]],
        scores=[
            None if pd.isna(score) or all(pd.isna(step) for step in steps) else float(score)
            for score, steps in zip(decided["aggregate_score"], decided["step_scores"], strict=True)
        ],
    )


def _groups(candidates: pd.DataFrame) -> list[int | None]:
    """As the run found them; rows of older runs have equal strings as equal answers."""
    found = candidates["answer_group"]
    if found.isna().all():
        found = pd.Series(pd.factorize(candidates["answer"])[0]).replace(-1, pd.NA)
    return [None if pd.isna(group) else int(group) for group in found]


def powers_of_two(largest: int) -> list[int]:
    """1, 2, 4, ... up to `largest`."""
    return [1 << exponent for exponent in range(largest.bit_length())]


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Chance that k of the samples hold a correct one: the unbiased estimator of Chen et al. (arXiv 2107.03374)."""
    _check_k(k, num_samples)
    return 1 - math.comb(num_samples - num_correct, k) / math.comb(num_samples, k)


def prm_at_k(pool: SampleSet, k: int) -> float:
    """Chance that the best-scored of k samples is correct (naive best-of-k).

    Exact: the sample of rank r (from 0) is the best of C(N-1-r, k-1) of the C(N, k) subsets. Samples with equal scores
    share their ranks. Ranks are those of `strategies.selection.best_scored`: samples without an answer come after all
    that have one, samples without a score after those with one.
    """
    return min(1.0, float(best_of_k_chances(pool, k) @ np.asarray(pool.correct, float)))


def best_of_k_chances(pool: SampleSet, k: int) -> npt.NDArray[np.float64]:
    """Of each sample, the chance that it is the best-scored of k: (N,), with the sum 1. As `prm_at_k`."""
    _check_k(k, len(pool))
    ranks = [
        (group is None, math.inf if score is None else -score)
        for group, score in zip(pool.groups, pool.scores, strict=True)
    ]
    order = sorted(range(len(pool)), key=lambda index: ranks[index])
    ties = np.cumsum([index > 0 and ranks[order[index]] != ranks[order[index - 1]] for index in range(len(pool))])
    size, total = len(pool), math.comb(len(pool), k)
    by_rank = np.array([math.comb(size - 1 - rank, k - 1) / total for rank in range(size)])
    chances = np.empty(size)
    chances[order] = (np.bincount(ties, weights=by_rank) / np.bincount(ties))[ties]
    return chances


def vote_at_k(
    pool: SampleSet, ks: Sequence[int], *, weighted: bool, num_subsets: int = 256, seed: int = 0
) -> dict[int, float]:
    """Chance that a vote of k samples is correct, by k: majority, or weighted by the scores (unscored: weight 0).

    The mean over `num_subsets` random orders of the pool, of which the first k vote, by the rules of
    `strategies.voting.majority_vote`. The standard error that this adds is below 0.5 / sqrt(num_subsets) per problem,
    and averages out over problems. Exact for k = 1.
    """
    for k in ks:
        _check_k(k, len(pool))
    names = list(dict.fromkeys(group for group in pool.groups if group is not None))
    if not names:
        return dict.fromkeys(ks, 0.0)
    index = {name: i for i, name in enumerate(names)}
    codes = np.array([len(names) if group is None else index[group] for group in pool.groups])
    is_correct = np.zeros(len(names) + 1)
    is_correct[codes] = pool.correct
    is_correct[-1] = 0.0  # no answer
    weights = np.array([1.0 if not weighted else score or 0.0 for score in pool.scores])

    rng = np.random.default_rng(seed)
    orders = rng.permuted(np.tile(np.arange(len(pool)), (num_subsets, 1)), axis=1)
    width = len(names) + 1  # the last column: no answer
    cells = np.arange(num_subsets)[:, None] * width + codes[orders]  # (subset, answer) as one number
    positions = np.tile(np.arange(len(pool)), num_subsets)
    flat_first = np.full(num_subsets * width, len(pool))
    np.minimum.at(flat_first, cells.ravel(), positions)  # equal shapes: numpy 2.3 is wrong where it must broadcast
    first_seen = flat_first.reshape(num_subsets, width)

    chances = {}
    for k in ks:
        if k == 1:
            chances[k] = float(np.mean(is_correct[codes]))
            continue
        votes = np.bincount(cells[:, :k].ravel(), weights[orders[:, :k]].ravel(), num_subsets * width)
        votes = np.where(first_seen < k, votes.reshape(num_subsets, width), -np.inf)
        votes[:, -1] = -np.inf  # no answer has no vote
        winning = votes >= votes.max(axis=1, keepdims=True) - 1e-9  # equal sums, whatever their order of adding
        winners = np.where(winning & (votes > -np.inf), first_seen, len(pool)).argmin(axis=1)
        nobody = np.isinf(votes).all(axis=1)
        chances[k] = float(np.mean(np.where(nobody, 0.0, is_correct[winners])))
    return chances


def metrics_at_k(pool: SampleSet, ks: Sequence[int], *, seed: int = 0) -> dict[str, dict[int, float]]:
    """All metrics of one problem: name -> k -> chance. Those of a verifier are there where it judged. A problem with
    fewer samples than k counts with those that it has."""
    fits = {k: min(k, len(pool)) for k in ks}
    at: dict[str, dict[int, float]] = {
        "pass@k": {size: pass_at_k(len(pool), sum(pool.correct), size) for size in fits.values()},
        "maj@k": vote_at_k(pool, list(fits.values()), weighted=False, seed=seed),
    }
    if pool.scored:
        at["prm@k"] = {size: prm_at_k(pool, size) for size in fits.values()}
        at["weighted@k"] = vote_at_k(pool, list(fits.values()), weighted=True, seed=seed)
    return {metric: {k: by_size[size] for k, size in fits.items()} for metric, by_size in at.items()}


def _check_k(k: int, num_samples: int) -> None:
    if not 1 <= k <= num_samples:
        raise ValueError(f"k must be between 1 and the number of samples ({num_samples}), got {k}")

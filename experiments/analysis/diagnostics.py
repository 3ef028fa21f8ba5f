"""What a verifier does to the samples that it ranks: does it tell right from wrong, does a score mean what it says, do
more samples begin to hurt, where does it hurt. Pure; on whole solutions. Every interval is over problems and seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np

from experiments.analysis.intervals import Interval, bootstrap_mean, bootstrap_problems
from experiments.analysis.metrics import SampleSet, best_of_k_chances
from experiments.analysis.paired import PairedComparison, compare_paired, holm
from strategies.voting import majority_vote
from verifiers.calibration import Bin, expected_calibration_error, reliability
from verifiers.metrics import auroc

_ALPHA = 0.05
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """Whether a score is the chance to be right. `error` is the expected calibration error (arXiv 1706.04599) and
    `brier` the mean squared distance of scores from 0 and 1, both 0 at best."""

    bins: Sequence[Bin]
    error: Interval
    brier: Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """prm@k at the largest k against that at a smaller one, paired by problem; Holm's p-value is over all smaller k."""

    k: int
    comparison: PairedComparison  # ours: the largest k
    adjusted_p: float


@dataclass(frozen=True, slots=True, kw_only=True)
class OverOptimisation:
    """Accuracy and score of the best-scored of k samples as k grows (Gao et al., arXiv 2210.10760).

    The score of what is chosen grows with k. Where accuracy falls meanwhile, the search finds what the verifier
    likes and not what is right. `happens`: the largest k is worse than some smaller one, Holm's p below 0.05.
    """

    accuracy: Mapping[int, Interval]
    chosen_score: Mapping[int, Interval]
    drops: Sequence[Drop]

    @property
    def happens(self) -> bool:
        return any(drop.comparison.difference.value < 0 and drop.adjusted_p < _ALPHA for drop in self.drops)


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How often two selectors choose equal answers from the same samples, and who is right where they do not."""

    first: str
    second: str
    num_problems: int
    same_answer: Interval  # share of problems
    only_first_right: int
    only_second_right: int
    both_wrong_apart: int  # different answers, both wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Harm:
    """A problem on which choosing by the verifier is worse than not asking it. Accuracies in 0..1, means over seeds."""

    problem: str
    by_verifier: float
    by_majority: float


def within_problem_auroc(pool: SampleSet) -> float | None:
    """P(a right sample of this problem scores above a wrong one that has an answer), ties by halves: what choosing
    among samples rests on. A sample that was not scored comes last. None where the samples with an answer are all
    right, all wrong or not scored: no verifier is needed to rank those without one last."""
    answered = [index for index, group in enumerate(pool.groups) if group is not None]
    scores = np.array([-np.inf if (score := pool.scores[i]) is None else score for i in answered])
    correct = np.array([pool.correct[i] for i in answered], bool)
    if not pool.scored or correct.all() or not correct.any():
        return None
    return auroc(scores, correct)


def mean_within_problem_auroc(pools: Sequence[SampleSet]) -> Interval | None:
    """The mean of `within_problem_auroc` over problems that have one; None where none has. One pool per problem."""
    found = [value for pool in pools if (value := within_problem_auroc(pool)) is not None]
    return bootstrap_mean(found) if found else None


def pooled_auroc(pools: Sequence[SampleSet]) -> Interval | None:
    """AUROC over all scored samples of all problems at once; None where they are all right or all wrong. It also pays a
    verifier for telling hard problems from easy ones, which chooses no sample: compare `mean_within_problem_auroc`."""

    def statistic(found: Sequence[tuple["np.ndarray", "np.ndarray"]]) -> float | None:
        scores, correct = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return None if correct.all() or not correct.any() else auroc(scores, correct)

    scored = _scored(pools)
    return bootstrap_problems(scored, statistic, num_resamples=400) if scored else None


def calibration(pools: Sequence[SampleSet], *, num_bins: int = 10) -> Calibration:
    """Of all scored samples. Raises ValueError where none is scored, or a score is not in 0..1."""
    scored = _scored(pools)
    if not scored:
        raise ValueError(f"calibration: wanted scored samples, got none in {len(pools)} pools")
    everything, correct = (np.concatenate(arrays) for arrays in zip(*scored, strict=True))
    if everything.min() < 0 or everything.max() > 1:
        raise ValueError(f"calibration: wanted scores in 0..1, got {everything.min():.3g} to {everything.max():.3g}")

    def error(found: Sequence[tuple["np.ndarray", "np.ndarray"]]) -> float:
        scores, right = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return expected_calibration_error(reliability(scores, right, num_bins))

    def brier(found: Sequence[tuple["np.ndarray", "np.ndarray"]]) -> float:
        scores, right = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return float(np.mean((scores - right) ** 2))

    of_error, of_brier = (bootstrap_problems(scored, how, num_resamples=400) for how in (error, brier))
    assert of_error is not None and of_brier is not None
    return Calibration(bins=reliability(everything, correct, num_bins), error=of_error, brier=of_brier)


def over_optimisation(pools: Mapping[str, Sequence[SampleSet]], ks: Sequence[int]) -> OverOptimisation:
    """Of problem -> one set of samples per seed. Problems with an unscored sample, or fewer than the largest k, are
    left out. Raises ValueError for fewer than two k, or where no problem is left."""
    ks = sorted(set(ks))
    whole = {
        problem: sets
        for problem, sets in pools.items()
        if sets and all(None not in pool.scores and len(pool) >= max(ks, default=0) for pool in sets)
    }
    if len(ks) < 2 or not whole:
        raise ValueError(
            f"over_optimisation: wanted at least 2 values of k and a problem whose samples are all scored and as many "
            f"as the largest k, got k of {ks} and {len(whole)} such problems of {len(pools)}"
        )
    accuracy: dict[int, dict[str, float]] = {k: {} for k in ks}
    score: dict[int, dict[str, float]] = {k: {} for k in ks}
    for problem, sets in whole.items():
        for k in ks:
            chances = [best_of_k_chances(pool, k) for pool in sets]
            accuracy[k][problem] = min(
                1.0, fmean(c @ np.array(p.correct, float) for c, p in zip(chances, sets, strict=True))
            )
            score[k][problem] = fmean(c @ np.array(p.scores, float) for c, p in zip(chances, sets, strict=True))
    *smaller, last = ks
    comparisons = [compare_paired(accuracy[last], accuracy[k]) for k in smaller]
    adjusted = holm([comparison.p_value for comparison in comparisons])
    return OverOptimisation(
        accuracy={k: bootstrap_mean(list(accuracy[k].values())) for k in ks},
        chosen_score={k: bootstrap_mean(list(score[k].values())) for k in ks},
        drops=[Drop(k=k, comparison=c, adjusted_p=p) for k, c, p in zip(smaller, comparisons, adjusted, strict=True)],
    )


def selections(pool: SampleSet) -> dict[str, int | None]:
    """Which answer (its group) each selector takes from all samples: `majority`, and `weighted` and `score` where a
    verifier judged. None: no sample has an answer. By the rules of the strategies: the first of equals."""
    chosen = {"majority": majority_vote(list(pool.groups), [1.0] * len(pool))}
    if pool.scored:
        weights = [score or 0.0 for score in pool.scores]
        chosen["weighted"] = majority_vote(list(pool.groups), weights)
        ranks = [
            (group is not None, -np.inf if score is None else score)
            for group, score in zip(pool.groups, pool.scores, strict=True)
        ]
        chosen["score"] = pool.groups[max(range(len(pool)), key=lambda index: ranks[index])]
    return chosen


def agreement(pools: Sequence[SampleSet]) -> list[Agreement]:
    """Of each pair of selectors, over the problems that both have chosen an answer for. One pool per problem."""
    chosen = [(selections(pool), _right_groups(pool)) for pool in pools]
    names = list(dict.fromkeys(name for found, _ in chosen for name in found))
    rows = []
    for first, second in combinations(names, 2):
        pairs = [
            (found[first], found[second], right)
            for found, right in chosen
            if found.get(first) is not None and found.get(second) is not None
        ]
        if pairs:
            apart = [(a in right, b in right) for a, b, right in pairs if a != b]
            rows.append(
                Agreement(
                    first=first,
                    second=second,
                    num_problems=len(pairs),
                    same_answer=bootstrap_mean([float(a == b) for a, b, _ in pairs]),
                    only_first_right=apart.count((True, False)),
                    only_second_right=apart.count((False, True)),
                    both_wrong_apart=apart.count((False, False)),
                )
            )
    return rows


def where_it_hurts(by_verifier: Mapping[str, float], by_majority: Mapping[str, float]) -> list[Harm]:
    """The problems (keys) on which the verifier's choice is worse than the majority's, the worst first. Single problems
    have no interval: this says where to look, and `compare_paired` whether it hurts on the whole or in a bin."""
    found = [
        Harm(problem=problem, by_verifier=by_verifier[problem], by_majority=by_majority[problem])
        for problem in sorted(by_verifier.keys() & by_majority.keys())
        if by_verifier[problem] < by_majority[problem] - _ROUNDING
    ]
    return sorted(found, key=lambda harm: harm.by_verifier - harm.by_majority)


def _scored(pools: Sequence[SampleSet]) -> list[tuple["np.ndarray", "np.ndarray"]]:
    """(scores, correct) of the scored samples of each problem that has any."""
    found = []
    for pool in pools:
        pairs = [(score, right) for score, right in zip(pool.scores, pool.correct, strict=True) if score is not None]
        if pairs:
            found.append((np.array([s for s, _ in pairs]), np.array([right for _, right in pairs], bool)))
    return found


def _right_groups(pool: SampleSet) -> set[int | None]:
    return {group for group, right in zip(pool.groups, pool.correct, strict=True) if right}

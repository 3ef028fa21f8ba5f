"""Samples that adaptive allocation needs for the accuracy of uniform sampling, over the recorded samples of a run: of
best-of-N where a verifier chooses, of self-consistency where a vote does.

Every strategy runs for real, by replay. A strategy is measured at several prices or budgets, which give samples against
accuracy; what it needs for an accuracy is read off between them. "Equal" is within one point of uniform. The problem is
the unit of all intervals: both sides are measured again on every resample of the problems.
"""

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.analysis.metrics import SampleSet, prm_at_k, vote_at_k
from experiments.data.graders import answers_of
from experiments.replay.recording import Recording, read_recording
from experiments.replay.run import replay_rows
from orchestrator.core.protocols import Strategy
from strategies.adaptive_best_of_n import AdaptiveBestOfN, Rule
from strategies.adaptive_consistency import AdaptiveConsistency, StoppingRule
from strategies.workload_budget import WorkloadBudget

Floats = NDArray[np.float64]

GOAL = ">= 4 (workload_budget); per_problem >= 2; adaptive_consistency >= 3 against self_consistency"
POINT = 0.01  # accuracies this near count as equal
SEEDS = (0, 1, 2)
NUM_RESAMPLES = 2000
PRICES = (0.0005, 0.001, 0.002, 0.003, 0.004, 0.006, 0.01)
THRESHOLDS = (0.7, 0.8, 0.9, 0.95)
WINDOWS = (2, 3, 4)
SHARES = (1 / 16, 1 / 12, 1 / 8, 1 / 6, 1 / 5, 1 / 4, 1 / 3, 1 / 2)  # of n, on average


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """Settings of one strategy, cheap ones first: samples and accuracy, each (settings, problems), means over seeds."""

    settings: tuple[str, ...]
    samples: Floats
    accuracy: Floats


def baseline_of(found: Mapping[str, Any]) -> str:
    """In words, of what `measure` found."""
    uniform = found["baseline"]
    return (
        f"uniform {uniform['strategy']} n={uniform['n']} over the same recorded samples; "
        "samples for an accuracy within one point"
    )


def measure(folder: Path, *, n: int = 64, seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Ratios of samples at equal accuracy, uniform over adaptive, with 95% intervals. `n` is uniform's, at most.

    `ratio` is that of the workload budget, `per_problem` that of adaptive best-of-N, each against uniform best-of-n as
    it is; `against_best_rule` lets uniform choose by whichever rule is best in hindsight. `same_accuracy` is the ratio
    to the samples that uniform itself needs for an accuracy one point below its own.

    `adaptive_consistency` is measured against self-consistency of n, each of its stopping rules by itself. Samples that
    it began and aborted count as whole ones. It is all that is measured where the recorded run had no verifier, and
    `ratio` is that of its default then.
    """
    recording = read_recording(folder)
    n = min(n, recording.num_samples)
    pools = asyncio.run(_pools(recording))
    about = {"num_problems": len(pools), "recorded_samples": recording.num_samples, "seeds": list(seeds)}
    if recording.verifier_model is None:
        return {**_without_scores(recording, pools, n, seeds), **about, "points": 100 * POINT}
    uniform = _uniform(pools, n)
    rules = {rule: curve[-1].mean() for rule, curve in uniform.items()}
    best_rule = max(rules, key=lambda rule: rules[rule])

    workload = _workload_curve(recording, n, seeds)
    per_problem = _per_problem_curve(recording, n, seeds)
    curves = {"workload_budget": workload, "per_problem": per_problem, "oracle_difficulty": _oracle_curve(pools, n)}
    ratios = {name: _ratio(curve, uniform["best_score"], n) for name, curve in curves.items()}
    quarter = workload.settings.index(f"samples_per_problem={max(2.0, n / 4):g}")
    default = per_problem.settings.index(f"price={AdaptiveBestOfN().price:g}")
    thresholds = _curve(recording, {"rule=thresholds": AdaptiveBestOfN(n=n, rule=Rule.thresholds)}, seeds)
    return {
        **ratios["workload_budget"],
        "per_problem": ratios["per_problem"],
        "oracle_difficulty": ratios["oracle_difficulty"],  # it knows each problem's pass rate: no strategy can
        "adaptive_consistency": _consistency(recording, uniform["majority_vote"], n, seeds),
        "smaller_n": {
            str(k): {name: _ratio(curve, uniform["best_score"][:k], k) for name, curve in curves.items()}
            for k in (n // 4, n // 2)
        },
        "against_best_rule": {
            "rule": best_rule,
            **{name: _ratio(curve, uniform[best_rule], n) for name, curve in curves.items()},
        },
        "at_a_quarter_of_the_samples": _at(workload, quarter, uniform["best_score"][-1]),
        "at_the_default_price": _at(per_problem, default, uniform["best_score"][-1]),
        "at_the_thresholds": _at(thresholds, 0, uniform["best_score"][-1]),
        "baseline": {"strategy": "best_of_n", "n": n, "accuracy": float(rules["best_score"])},
        "uniform_rules": {rule: float(accuracy) for rule, accuracy in rules.items()},
        "curves": {name: _shown(curve) for name, curve in curves.items()},
        **about,
        "points": 100 * POINT,
    }


def _without_scores(recording: Recording, pools: Sequence[SampleSet], n: int, seeds: Sequence[int]) -> dict[str, Any]:
    uniform = np.array([_votes(pool, range(1, n + 1), weighted=False) for pool in pools]).T
    by_rule = _consistency(recording, uniform, n, seeds)
    default = by_rule[AdaptiveConsistency().rule.value]
    return {
        **{name: default[name] for name in ("ratio", "ratio_min", "ratio_max")},
        "adaptive_consistency": by_rule,
        "baseline": {"strategy": "self_consistency", "n": n, "accuracy": float(uniform[-1].mean())},
    }


async def _pools(recording: Recording) -> list[SampleSet]:
    """The samples of each problem; those that the grader could not decide are left out."""
    async with answers_of(recording.data) as answers:
        pools = []
        for recorded in recording.problems:
            samples = [sample for sample in recorded.samples if sample.correct is not None]
            groups = await answers.group([sample.answer for sample in samples])
            pools.append(
                SampleSet(
                    groups=groups,
                    correct=[bool(sample.correct) for sample in samples],
                    scores=[sample.aggregate_score for sample in samples],
                )
            )
    return pools


# uniform


def _uniform(pools: Sequence[SampleSet], n: int) -> dict[str, Floats]:
    """Accuracy of uniform sampling under each rule of choice, (samples - 1, problem): expectations over all subsets."""
    ks = range(1, n + 1)
    by_rule = {
        "best_score": [[prm_at_k(pool, k) for k in ks] for pool in pools],
        "majority_vote": [_votes(pool, ks, weighted=False) for pool in pools],
        "weighted_vote": [_votes(pool, ks, weighted=True) for pool in pools],
        "odds_weighted_vote": [_votes(_by_odds(pool), ks, weighted=True) for pool in pools],
    }
    return {rule: np.array(values).T for rule, values in by_rule.items()}


def _votes(pool: SampleSet, ks: Sequence[int], *, weighted: bool) -> list[float]:
    chances = vote_at_k(pool, ks, weighted=weighted, num_subsets=64)
    return [chances[k] for k in ks]


def _by_odds(pool: SampleSet) -> SampleSet:
    """A vote in which one sample at 0.95 outweighs two at 0.9: the vote that is nearest to the best score."""
    return replace(pool, scores=[(score or 0.0) / max(1 - (score or 0.0), 1e-6) for score in pool.scores])


# adaptive


def _workload_curve(recording: Recording, n: int, seeds: Sequence[int]) -> Curve:
    budgets = [max(2.0, n * share) for share in SHARES]
    strategies = {
        f"samples_per_problem={budget:g}": WorkloadBudget(n=n, samples_per_problem=budget) for budget in budgets
    }
    return _curve(recording, strategies, seeds)


def _per_problem_curve(recording: Recording, n: int, seeds: Sequence[int]) -> Curve:
    return _curve(recording, {f"price={price:g}": AdaptiveBestOfN(n=n, price=price) for price in PRICES[::-1]}, seeds)


def _consistency(recording: Recording, uniform: Floats, n: int, seeds: Sequence[int]) -> dict[str, Any]:
    """Of each stopping rule: samples at the accuracy of a majority vote of n; and its default beside that vote."""
    default = AdaptiveConsistency(n=n)
    thresholds: list[dict[str, Any]] = [{"threshold": threshold} for threshold in THRESHOLDS]
    windows: list[dict[str, Any]] = [{"window": window} for window in WINDOWS]
    found: dict[str, Any] = {}
    for rule in StoppingRule:
        if rule is StoppingRule.cges and not recording.has_logprobs:
            found[rule.value] = {"not_measured": "the recorded run asked for no log-probabilities"}
            continue
        swept = windows if rule is StoppingRule.window else thresholds
        strategies = [replace(default, rule=rule, **fields) for fields in swept]
        labels = [f"{name}={value:g}" for fields in swept for name, value in fields.items()]
        curve = _curve(recording, dict(zip(labels, strategies, strict=True)), seeds)
        by_default = strategies.index(replace(default, rule=rule))
        found[rule.value] = {
            **_ratio(curve, uniform, n),
            "by_default": _at(curve, by_default, uniform[-1]),
            "curve": _shown(curve),
        }
    return found


def _curve(recording: Recording, strategies: Mapping[str, Strategy], seeds: Sequence[int]) -> Curve:
    index = {recorded.problem.id: i for i, recorded in enumerate(recording.problems)}
    samples, accuracy = np.zeros((2, len(strategies), len(index)))
    for setting, strategy in enumerate(strategies.values()):
        for row in replay_rows(recording, type(strategy).__name__, strategy, seeds):
            samples[setting, index[row.problem_id]] += json.loads(row.detail)["samples"] / len(seeds)
            accuracy[setting, index[row.problem_id]] += bool(row.correct) / len(seeds)
    return Curve(settings=tuple(strategies), samples=samples, accuracy=accuracy)


def _oracle_curve(pools: Sequence[SampleSet], n: int) -> Curve:
    """Greedy allocation by p (1 - p)^k, the chance that sample k + 1 is the first correct one, p the true pass rate."""
    rates = np.array([sum(pool.correct) / len(pool) for pool in pools])
    gains = rates[:, None] * (1 - rates[:, None]) ** np.arange(1, n)  # of each sample after the first
    order = np.argsort(-gains, axis=None, kind="stable")
    settings, samples, accuracy = [], [], []
    for share in SHARES:
        counts = np.ones(len(pools), int)
        spent = min(order.size, round(n * share * len(pools)) - len(pools))
        np.add.at(counts, order[: max(0, spent)] // (n - 1), 1)
        settings.append(f"samples_per_problem={n * share:g}")
        samples.append(counts.astype(float))
        accuracy.append([prm_at_k(pool, int(k)) for pool, k in zip(pools, counts, strict=True)])
    return Curve(settings=tuple(settings), samples=np.array(samples), accuracy=np.array(accuracy))


# comparison


def _shown(curve: Curve) -> list[dict[str, Any]]:
    return [
        {"setting": setting, "samples": float(samples.mean()), "accuracy": float(accuracy.mean())}
        for setting, samples, accuracy in zip(curve.settings, curve.samples, curve.accuracy, strict=True)
    ]


def _ratio(curve: Curve, uniform: Floats, n: int) -> dict[str, float]:
    """Samples of uniform over those of the curve, at uniform's accuracy less a point, with bootstrap intervals.

    `uniform` is (samples - 1, problem), up to n. The curve ends in uniform itself, which needs no fewer than n.
    """
    samples = np.vstack([curve.samples, np.full_like(uniform[-1:], n)])
    accuracy = np.vstack([curve.accuracy, uniform[-1:]])
    rng = np.random.default_rng(0)
    size = uniform.shape[1]
    weights = rng.multinomial(size, np.full(size, 1 / size), size=NUM_RESAMPLES) / size
    found = [_compare(samples @ w, accuracy @ w, uniform @ w) for w in (np.full(size, 1 / size), *weights)]
    ratio, same = np.array(found).T
    return {
        "ratio": float(ratio[0]),
        "ratio_min": float(np.quantile(ratio[1:], 0.025)),
        "ratio_max": float(np.quantile(ratio[1:], 0.975)),
        "samples": float(n / ratio[0]),
        "same_accuracy": float(same[0]),
        "same_accuracy_min": float(np.quantile(same[1:], 0.025)),
        "same_accuracy_max": float(np.quantile(same[1:], 0.975)),
    }


def _compare(samples: Floats, accuracy: Floats, uniform: Floats) -> tuple[float, float]:
    """Samples of uniform's n over those needed, and of uniform's own need over them."""
    n = len(uniform)
    target = uniform[-1] - POINT
    needed = _needed(samples, accuracy, target)
    return n / needed, _needed(np.arange(1, n + 1, dtype=np.float64), uniform, target) / needed


def _needed(samples: Floats, accuracy: Floats, target: float) -> float:
    """The fewest samples at which a curve reaches an accuracy, interpolated between its settings."""
    order = np.argsort(samples, kind="stable")
    samples, accuracy = samples[order], accuracy[order]
    first = int(np.argmax(accuracy >= target))
    if first == 0:
        return float(samples[0])
    share = (target - accuracy[first - 1]) / (accuracy[first] - accuracy[first - 1])
    return float(samples[first - 1] + share * (samples[first] - samples[first - 1]))


def _at(curve: Curve, setting: int, uniform: Floats) -> dict[str, Any]:
    """One setting beside uniform: its samples, and the paired difference of the accuracies."""
    samples, difference = curve.samples[setting], curve.accuracy[setting] - uniform
    rng = np.random.default_rng(0)
    drawn = rng.choice(difference.size, size=(NUM_RESAMPLES, difference.size))
    resampled, resampled_samples = difference[drawn].mean(axis=1), samples[drawn].mean(axis=1)
    return {
        "setting": curve.settings[setting],
        "samples": float(samples.mean()),
        "samples_min": float(np.quantile(resampled_samples, 0.025)),
        "samples_max": float(np.quantile(resampled_samples, 0.975)),
        "accuracy": float(curve.accuracy[setting].mean()),
        "difference": float(difference.mean()),
        "difference_min": float(np.quantile(resampled, 0.025)),
        "difference_max": float(np.quantile(resampled, 0.975)),
    }

"""Every method of a run against every other on the same problems, with Holm's correction over all of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from experiments.analysis.compare_table import p_value, points
from experiments.analysis.curves import SampleCurves
from experiments.analysis.detectable import smallest_detectable
from experiments.analysis.frames import accuracies, graded
from experiments.analysis.intervals import Interval, Over, wilson_interval
from experiments.analysis.paired import PairedComparison, compare_paired, holm
from experiments.analysis.tables import Cells, percent

ALPHA = 0.05
_SELECTION = {"prm@k": "score", "weighted@k": "weighted", "maj@k": "majority"}  # how a strategy that does so says it


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A strategy as it ran, or another way to choose from the samples of one. `accuracies`: by problem, in 0..1, means
    over seeds; `tokens`: sampled per problem."""

    name: str
    accuracies: Mapping[str, float]
    tokens: float

    @property
    def accuracy(self) -> Interval:
        total = len(self.accuracies)
        return wilson_interval(min(float(total), sum(self.accuracies.values())), total)


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedPair:
    """Two methods, of which `better` has the higher accuracy or an equal one. `smallest`: the difference that 80%
    of such runs would show, None where none could be shown."""

    better: Method
    other: Method
    comparison: PairedComparison  # ours: better
    adjusted_p: float
    smallest: float | None

    @property
    def significant(self) -> bool:
        return self.adjusted_p < ALPHA


def methods_of(problems: pd.DataFrame, pool: SampleCurves | None) -> list[Method]:
    """The strategies that have a graded row, and votes and the best score over the largest set of samples where that
    strategy chooses otherwise. Coverage is none: nothing chooses so."""
    found, own = [], set[str]()
    for (strategy, _, label), rows in graded(problems).groupby(["strategy", "params", "label"], sort=False):
        found.append(
            Method(name=str(label), accuracies=accuracies(rows), tokens=float(rows["generated_tokens"].mean()))
        )
        if pool is not None and label == pool.label:
            own |= set(rows["selection"].dropna()) or {"majority" if strategy == "self_consistency" else "score"}
    if pool is not None:
        k = max(pool.costs)
        found += [
            Method(
                name=f"{metric.removesuffix('@k')}@{k} of {pool.label}",
                accuracies=pool.values[metric][k],
                tokens=pool.costs[k]["generated_tokens"],
            )
            for metric, selection in _SELECTION.items()
            if metric in pool.values and selection not in own
        ]
    return found


def compare_all(found: Sequence[Method]) -> list[ComparedPair]:
    """Each pair that shares a problem, the largest difference first."""
    pairs = [pair for pair in combinations(found, 2) if pair[0].accuracies.keys() & pair[1].accuracies.keys()]
    compared = []
    for first, second in pairs:
        comparison = compare_paired(first.accuracies, second.accuracies)
        if comparison.difference.value < 0:
            first, second = second, first
            comparison = compare_paired(first.accuracies, second.accuracies)
        compared.append((first, second, comparison))
    adjusted = holm([comparison.p_value for _, _, comparison in compared])
    tested = [
        ComparedPair(
            better=better,
            other=other,
            comparison=comparison,
            adjusted_p=p,
            smallest=smallest_detectable(comparison, num_comparisons=len(compared)),
        )
        for (better, other, comparison), p in zip(compared, adjusted, strict=True)
    ]
    return sorted(tested, key=lambda pair: -pair.comparison.difference.value)


def pairs_table(tested: Sequence[ComparedPair]) -> Cells:
    """All pairs, for a reader who wants them all."""
    return Cells(
        title=f"Every pair on the same problems (in points; 95% intervals over {Over.BOTH}; Holm: {len(tested)} pairs)",
        headers=(
            "more accurate", "than", "problems", "accuracy %", "other's %", "difference", "won / lost", "p", "p (Holm)",
            "would be shown", "tokens ×",
        ),
        rows=[
            [
                pair.better.name,
                pair.other.name,
                f"{pair.comparison.num_problems:,}",
                percent(pair.comparison.ours),
                percent(pair.comparison.theirs),
                points(pair.comparison.difference),
                f"{pair.comparison.better} / {pair.comparison.worse}",
                p_value(pair.comparison.p_value),
                p_value(pair.adjusted_p),
                "-" if pair.smallest is None else f"{100 * pair.smallest:.1f}",
                f"{pair.better.tokens / pair.other.tokens:.2f}" if pair.other.tokens else "-",
            ]
            for pair in tested
        ],
    )  # fmt: skip

"""What a run shows, what it does not show, and what was lost: in plain sentences that claim no more than the tests."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import fmean

import pandas as pd

from experiments.analysis.answer_shares import shares_of
from experiments.analysis.compare_table import p_value, points
from experiments.analysis.curves import SampleCurves
from experiments.analysis.detectable import POWER
from experiments.analysis.diagnostics import over_optimisation, within_problem_auroc
from experiments.analysis.frames import largest_sample_sets
from experiments.analysis.intervals import Interval, Over, bootstrap_mean
from experiments.analysis.metrics import powers_of_two
from experiments.analysis.pairwise import ALPHA, ComparedPair, Method
from experiments.analysis.tables import percent

_MOST_PAIRS = 6  # sentences of one kind; the table has all
_FEW_PROBLEMS = 30  # below, bootstrap intervals are too narrow (docs/analysis.md)


class Kind(StrEnum):
    """What a sentence is about, as the page's headings."""

    SHOWN = "What is significant"
    OPEN = "What is not significant"
    MEASURED = "Measured, without a test"
    LOST = "What was cut off, unanswered or failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One plain sentence or two."""

    kind: Kind
    text: str


def findings(
    problems: pd.DataFrame,
    candidates: pd.DataFrame,
    pool: SampleCurves | None,
    found: Sequence[Method],
    tested: Sequence[ComparedPair],
) -> list[Finding]:
    """Of one run. Each kind has at least one sentence, except `MEASURED`, which may have nothing to say."""
    return [
        *_significant(tested, found),
        *_open(tested),
        *_measured(problems, candidates, pool, found),
        *_lost(problems, candidates),
    ]


def _significant(tested: Sequence[ComparedPair], found: Sequence[Method]) -> list[Finding]:
    shown = [pair for pair in tested if pair.significant]
    lines = [
        f"{pair.better.name} is more accurate than {pair.other.name}: {_difference(pair)}{_price(pair)}."
        for pair in shown[:_MOST_PAIRS]
    ]
    if len(shown) > _MOST_PAIRS:
        lines.append(f"{len(shown) - _MOST_PAIRS:,} more significant pairs are in the table of pairs.")
    if not found:
        lines = ["Nothing was graded, so there is nothing to compare."]
    elif not tested:
        lines = [f"There is nothing to compare: {found[0].name} is the only strategy on its problems."]
    elif not shown:
        lines = ["Nothing: no difference between two strategies of this run is significant."]
    return [Finding(kind=Kind.SHOWN, text=line) for line in lines]


def _open(tested: Sequence[ComparedPair]) -> list[Finding]:
    pairs = [pair for pair in tested if not pair.significant]
    lines = [
        f"Of {len(tested):,} pairs, {len(pairs):,} show no significant difference. That does not mean that there is "
        f"none: beside each is the difference that {POWER:.0%} of such runs would show.",
        *(
            f"{pair.better.name} and {pair.other.name}: {_difference(pair)}; {_seen(pair)}."
            for pair in pairs[:_MOST_PAIRS]
        ),
    ]
    if len(pairs) > _MOST_PAIRS:
        lines.append(f"{len(pairs) - _MOST_PAIRS:,} more such pairs are in the table of pairs.")
    if not pairs:
        lines = ["Nothing was compared." if not tested else "None: every pair of strategies differs significantly."]
    return [Finding(kind=Kind.OPEN, text=line) for line in lines]


def _difference(pair: ComparedPair) -> str:
    found = pair.comparison
    p = p_value(pair.adjusted_p)
    return (
        f"{points(found.difference)} points, better on {found.better:,} and worse on {found.worse:,} of the same "
        f"{found.num_problems:,} problems (p {p.replace('<', '< ') if p.startswith('<') else f'= {p}'})"
    )


def _price(pair: ComparedPair) -> str:
    if not pair.other.tokens:
        return ""
    ratio = f"{pair.better.tokens / pair.other.tokens:.2g}"
    return ", for as many tokens" if ratio == "1" else f", for {ratio} times its tokens"


def _seen(pair: ComparedPair) -> str:
    if pair.smallest is None:
        return "on so few problems none could be shown"
    return f"{100 * pair.smallest:.1f} points would be shown"


def _measured(
    problems: pd.DataFrame, candidates: pd.DataFrame, pool: SampleCurves | None, found: Sequence[Method]
) -> list[Finding]:
    lines = []
    if found:
        best = max(found, key=lambda one: one.accuracy.value)
        lines.append(
            f"The highest accuracy is that of {best.name}: {_percent(best.accuracy)} of {len(best.accuracies):,} "
            f"problems at {best.tokens:,.0f} tokens per problem. The highest of several is partly luck: what counts is "
            "whether it is significant above."
        )
        if len(best.accuracies) < _FEW_PROBLEMS:
            lines.append(
                f"{len(best.accuracies)} problems are few: below about {_FEW_PROBLEMS}, intervals of curves at k and "
                "of the verifier are too narrow."
            )
    if pool is not None:
        k = max(pool.costs)
        coverage = bootstrap_mean(list(pool.values["pass@k"][k].values()))
        lines.append(
            f"Of {k} samples of {pool.label}, at least one is right on {_percent(coverage)} of problems. No way to "
            "choose among these samples can do better."
        )
        lines += _verifier_lines(problems, candidates)
    return [Finding(kind=Kind.MEASURED, text=line) for line in lines]


def _verifier_lines(problems: pd.DataFrame, candidates: pd.DataFrame) -> list[str]:
    sets = largest_sample_sets(problems, candidates)
    by_problem = [[a for pool in pools if (a := within_problem_auroc(pool)) is not None] for pools in sets.values()]
    means = [fmean(values) for values in by_problem if values]
    if not means:
        return []
    auroc = bootstrap_mean(means)
    chance = (
        "better than chance"
        if auroc.low > 0.5
        else "worse than chance"
        if auroc.high < 0.5
        else "not shown to differ from chance"
    )
    lines = [
        f"Of a right and a wrong sample of one problem the verifier scores the right one higher in "
        f"{_percent(auroc)} of pairs (AUROC within problems, on the {len(means):,} problems that have both): {chance}, "
        "which is 50%."
    ]
    largest = max((len(pool) for pools in sets.values() for pool in pools), default=1)
    try:
        growing = over_optimisation(sets, powers_of_two(largest))
    except ValueError:  # too few samples, or some were not scored
        return lines
    first, last = min(growing.accuracy), max(growing.accuracy)
    if growing.happens:
        worst = min(growing.drops, key=lambda drop: drop.comparison.difference.value)
        lines.append(
            f"More samples hurt: the best-scored of {last} is right less often than the best-scored of {worst.k}, by "
            f"{points(worst.comparison.difference)} points (p after Holm over {len(growing.drops)} k: "
            f"{p_value(worst.adjusted_p)}). The search finds what the verifier likes."
        )
    else:
        lines.append(
            f"From {first} to {last} samples, no significant loss of accuracy by following the verifier is seen."
        )
    return lines


def _lost(problems: pd.DataFrame, candidates: pd.DataFrame) -> list[Finding]:
    lines = []
    for label, rows in candidates.groupby("label", sort=False):
        shares = shares_of(rows)
        counts = {
            "were cut off": shares.cut_off,
            "have no answer": shares.no_answer,
            "could not be decided by the grader": shares.undecided,
            "were not judged by the verifier": int(rows["unjudged"].notna().sum()),
        }
        told = [f"{_share(count, len(rows))} {what}" for what, count in counts.items() if count]
        if told:
            both = f" ({shares.both:,} are both cut off and without an answer)" if shares.both else ""
            lines.append(f"{label}: of {len(rows):,} candidates {_joined(told)}{both}.")
            lines += [f"{label}: {warning}." for warning in shares.warnings()]
    for label, rows in problems.groupby("label", sort=False):
        counts = {
            "ended in an error": int((rows["status"] == "error").sum()),
            "were ended by a cap of the budget": int((rows["end_reason"] == "budget").sum()),
            "were ended by the deadline": int((rows["end_reason"] == "deadline").sum()),
            "gave no answer": int((rows["answer"].isna() & (rows["status"] == "ok")).sum()),
            "have an answer that could not be decided": int(rows["undecided"].notna().sum()),
        }
        told = [f"{_share(count, len(rows))} {what}" for what, count in counts.items() if count]
        if told:
            lines.append(f"{label}: of {len(rows):,} searches {_joined(told)}.")
    failed = problems[problems["status"] == "error"]
    if len(failed):
        first = failed.iloc[0]
        lines.append(
            f"Errors count in no accuracy. The first is {first['problem_id']} ({first['label']}): {first['error']}"
        )
    if not lines:
        lines = ["Nothing: every search ended by itself with an answer, and every candidate too."]
    return [Finding(kind=Kind.LOST, text=line) for line in lines]


def _percent(interval: Interval) -> str:
    value, _, bounds = percent(interval).partition(" ")
    return f"{value}% {bounds}"


def _share(count: int, total: int) -> str:
    return f"{count:,} ({100 * count / total:.1f}%)"


def _joined(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"


INTERVALS = (
    f"Numbers in brackets are 95% intervals over {Over.BOTH}: how far a number would move on other problems of this "
    "kind, with as many seeds. Each is of its own number alone. Each p is that of an exact test on the same problems "
    "(McNemar's, or random signs where seeds or votes make fractions), after Holm over all pairs of strategies of the "
    f"run, so an interval may leave out 0 where p does not show it. Significant means p < {ALPHA}."
)

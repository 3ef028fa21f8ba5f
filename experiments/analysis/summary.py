"""The tables of a run and the notes below them. Errors are counted and named, and never scored."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from experiments.analysis.answer_shares import SHOWN, Shares, shares_of
from experiments.analysis.curves import SampleCurves, accuracy
from experiments.analysis.frames import accuracies, graded
from experiments.analysis.intervals import Interval, Over
from experiments.analysis.paired import paired_difference
from experiments.analysis.step_notes import single_step_notes
from experiments.analysis.tables import Cells, percent, si

_GROUP = ["strategy", "params", "label"]
_NUM_ERRORS_SHOWN = 3
_WIDE = ("discarded", "verifier tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """The tables of a run and, in words, what they leave out."""

    tables: Sequence[Cells]
    notes: Sequence[str]


def summary(problems: pd.DataFrame, candidates: pd.DataFrame, pool: SampleCurves | None, tidy: pd.DataFrame) -> Summary:
    """Of the rows of a run, its largest set of samples and its points."""
    tables = [_summary_table(problems, candidates)]
    warnings = [*_answer_notes(candidates), *single_step_notes(candidates)]
    notes = [*warnings, *unjudged_notes(candidates), *_error_notes(problems)]
    if pool is not None:
        tables.append(_pool_table(pool, tidy))
        notes = [*_comparisons(problems, pool), *notes]
    return Summary(tables=tables, notes=notes)


def _summary_table(problems: pd.DataFrame, candidates: pd.DataFrame) -> Cells:
    several_seeds = problems["seed"].nunique() > 1
    some_failed = bool((problems["status"] == "error").any())
    groups = [(label, group) for (_, _, label), group in problems.groupby(_GROUP, sort=False)]
    cheapest = problems.groupby("strategy")["generated_tokens"].mean()
    groups.sort(key=lambda item: (cheapest[item[1]["strategy"].iloc[0]], item[1]["generated_tokens"].mean()))
    counts = {group[group["status"] == "ok"]["problem_id"].nunique() for _, group in groups}
    tokens = {"generated_tokens": "tokens", "discarded_tokens": "discarded", "verifier_tokens": "verifier tokens"}
    if not problems["discarded_tokens"].any():
        del tokens["discarded_tokens"]
    shares = {label: shares_of(rows).shown() for (_, _, label), rows in candidates.groupby(_GROUP, sort=False)}
    said = [name for name in Shares().shown() if any(found[name] > SHOWN for found in shares.values())]
    rows = []
    for label, group in groups:
        finished, counted = group[group["status"] == "ok"], graded(group)
        share = percent(accuracy(counted)[1]) if len(counted) else "-"
        timed = finished[finished["replayed_from"].isna()]
        flops = finished["policy_flops"] + finished["verifier_flops"]
        rows.append(
            [
                label,
                *([f"{finished['problem_id'].nunique():,}"] if len(counts) > 1 else []),
                *([f"{finished['seed'].nunique()}"] if several_seeds else []),
                share,
                *(f"{100 * shares[label][name]:.1f}" if label in shares else "-" for name in said),
                *(_count(finished[name]) for name in tokens),
                si(flops.mean()) if flops.any() else "-",
                f"{timed['wall_s'].mean():.2f}" if len(timed) else "-",
                _speed(timed),
                *([f"{len(group) - len(finished)}"] if some_failed else []),
            ]
        )
    costs = (*tokens.values(), "FLOPs", "s", "tokens/s (useful)")
    seeds, errors = ("seeds",) * several_seeds, ("errors",) * some_failed
    problem_counts = ("problems",) if len(counts) > 1 else ()
    over = ("" if len(counts) > 1 else f"{max(counts):,} ") + "problems" + ", mean of their seeds" * several_seeds
    return Cells(
        title=f"Accuracy and mean cost per problem (Wilson 95% interval over {over})",
        headers=("strategy", *problem_counts, *seeds, "accuracy %", *said, *costs, *errors),
        rows=rows,
        wide=_WIDE,
    )


def _speed(rows: pd.DataFrame) -> str:
    """Tokens per second of all searches of a strategy together; beside it, where they differ, of those that were not
    thrown away (the goodput)."""
    seconds = (rows["finished_at"].max() - rows["started_at"].min()).total_seconds() if len(rows) else 0
    if seconds <= 0:
        return "-"
    sampled, lost = rows["generated_tokens"].sum(), rows["discarded_tokens"].sum()
    return f"{sampled / seconds:,.0f}" + (f" ({(sampled - lost) / seconds:,.0f})" if lost else "")


def _pool_table(pool: SampleCurves, tidy: pd.DataFrame) -> Cells:
    curve = tidy[tidy["kind"] == "curve"].set_index(["series", "k"])
    intervals = {
        key: Interval(value=row["accuracy"], low=row["low"], high=row["high"], over=Over.BOTH)
        for key, row in curve.iterrows()
    }
    return Cells(
        title=f"k of the samples of {pool.label}, {len(pool.values['pass@k'][1])} problems "
        f"(%, bootstrap 95% interval over {Over.BOTH})",
        headers=("k", "tokens", *pool.values),
        rows=[
            [str(k), f"{costs['generated_tokens']:,.0f}", *(percent(intervals[metric, k]) for metric in pool.values)]
            for k, costs in pool.costs.items()
        ],
    )


def _comparisons(problems: pd.DataFrame, pool: SampleCurves) -> list[str]:
    """Paired differences on the same problems: what a reader wants to know of the verifier."""
    if "prm@k" not in pool.values:
        return []
    k = max(pool.costs)
    ours = pool.values["prm@k"][k]
    others = {f"maj@{k}": pool.values["maj@k"][k]}
    greedy = graded(problems)
    greedy = greedy[greedy["strategy"] == "greedy"]
    if set(greedy["problem_id"]) & set(ours):
        others["greedy"] = accuracies(greedy)
    lines = []
    for name, theirs in others.items():
        gap = paired_difference(ours, theirs)
        lines.append(
            f"prm@{k} - {name}: {100 * gap.value:+.1f} points "
            f"[{100 * gap.low:+.1f}, {100 * gap.high:+.1f}] (paired, {len(ours.keys() & theirs.keys())} problems)"
        )
    return lines


def _answer_notes(candidates: pd.DataFrame) -> list[str]:
    """What says that an accuracy is not the model's, strategy by strategy."""
    return [
        f"warning: {label}: {warning}"
        for (_, _, label), rows in candidates.groupby(_GROUP, sort=False)
        for warning in shares_of(rows).warnings()
    ]


def unjudged_notes(candidates: pd.DataFrame) -> list[str]:
    unjudged = candidates["unjudged"].dropna()
    if unjudged.empty:
        return []
    return [
        f"{len(unjudged):,} of {len(candidates):,} candidates could not be judged and rank last; "
        f"the first: {unjudged.iloc[0]}"
    ]


def _error_notes(problems: pd.DataFrame) -> list[str]:
    failed = problems[problems["status"] == "error"]
    if failed.empty:
        return []
    shown = failed.head(_NUM_ERRORS_SHOWN)
    lines = [f"{len(failed)} of {len(problems)} rows ended in an error and count in no accuracy:"]
    lines += [f"  {row.problem_id} ({row.label}): {row.error}" for row in shown.itertuples()]
    if len(failed) > len(shown):
        lines.append(f"  and {len(failed) - len(shown)} more; `headrace run ... --resume` tries them again")
    return lines


def _count(column: pd.Series) -> str:
    return f"{column.mean():,.0f}" if len(column) else "-"

"""What a finished run says: accuracy against what it cost, as tables, a tidy frame and a figure.

Analysis reads only Parquet. Problems that ended in an error are counted and named, and never scored.
"""

import io
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pandas as pd
from matplotlib import rc_context
from rich.console import Console

from experiments.analysis.answer_shares import SHOWN, Shares, shares_of
from experiments.analysis.figure import draw
from experiments.analysis.frames import accuracies, graded
from experiments.analysis.intervals import Interval, Over, bootstrap_mean, wilson_interval
from experiments.analysis.largest import SAMPLED_STRATEGIES, largest_sample
from experiments.analysis.metrics import metrics_at_k, powers_of_two, sample_set
from experiments.analysis.paired import paired_difference
from experiments.analysis.step_notes import single_step_notes
from experiments.analysis.tables import Cells, percent, si
from orchestrator.core.errors import UserError
from orchestrator.results import read_results

JUDGED_METRICS = ("prm@k", "weighted@k")  # those that pay the verifier

_GROUP = ["strategy", "params", "label"]
_NUM_ERRORS_SHOWN = 3
_WIDE = ("discarded", "verifier tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleCurves:
    """The largest set of samples in a run, and what it says at each k: metric -> k -> problem -> chance."""

    label: str
    num_samples: int
    values: Mapping[str, Mapping[int, Mapping[str, float]]]
    costs: Mapping[int, Mapping[str, float]]  # k -> generated_tokens, policy_flops, verifier_flops per problem


def report(folder: Path, console: Console) -> None:
    """Prints the tables of a run and writes them and the figure into its folder. Raises UserError."""
    problems, candidates = read_results(folder)
    pool = sample_curves(problems, candidates)
    tidy = _tidy(problems, pool)
    tables = [_summary_table(problems, candidates)]
    warnings = [*_answer_notes(candidates), *single_step_notes(candidates)]
    notes = [*warnings, *_unjudged_notes(candidates), *_error_notes(problems)]
    if pool is not None:
        tables.append(_pool_table(pool, tidy))
        notes = [*_comparisons(problems, pool), *notes]
    for table in tables:
        console.print(table.rich(console.width))
    for note in notes:
        console.print(note, markup=False, highlight=False)

    files = {"report.md": _markdown(folder.resolve().name, tables, notes, has_figure=not tidy.empty).encode()}
    if not tidy.empty:
        figure = draw(tidy, title="Accuracy bought with test-time compute", subtitle=_subtitle(problems, pool))
        for kind in ("png", "svg"):
            image = io.BytesIO()
            with rc_context({"svg.hashsalt": "headrace"}):  # equal figures are equal files
                figure.savefig(image, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
            files[f"compute_accuracy.{kind}"] = image.getvalue()
    try:
        for name, data in files.items():
            (folder / name).write_bytes(data)
    except OSError as error:
        raise UserError(f"report: can't write to {folder}: {error.strerror or error}") from error
    console.print(f"Wrote {', '.join(files)} to {folder}", markup=False, highlight=False, soft_wrap=True)


def curves(problems: pd.DataFrame, candidates: pd.DataFrame) -> pd.DataFrame:
    """Every point of the compute-accuracy picture, one per row.

    `kind` is "curve" for metrics of the largest pool of samples at k = 1, 2, 4, ... and "point" for the other
    strategies as they ran. Costs are means per problem; k of N samples cost k/N of the pool, without the verifier
    where the metric does not ask it.
    """
    return _tidy(problems, sample_curves(problems, candidates))


def _tidy(problems: pd.DataFrame, pool: SampleCurves | None) -> pd.DataFrame:
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
            rows.append(_point("point", strategy, label, None if pd.isna(n) else int(n), *_accuracy(group), cost))
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


def _accuracy(group: pd.DataFrame) -> tuple[int, Interval]:
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
        accuracy = percent(_accuracy(counted)[1]) if len(counted) else "-"
        flops = finished["policy_flops"] + finished["verifier_flops"]
        rows.append(
            [
                label,
                *([f"{finished['problem_id'].nunique():,}"] if len(counts) > 1 else []),
                *([f"{finished['seed'].nunique()}"] if several_seeds else []),
                accuracy,
                *(f"{100 * shares[label][name]:.1f}" if label in shares else "-" for name in said),
                *(_count(finished[name]) for name in tokens),
                si(flops.mean()) if flops.any() else "-",
                f"{finished['wall_s'].mean():.2f}" if len(finished) else "-",
                _speed(finished),
                *([f"{len(group) - len(finished)}"] if some_failed else []),
            ]
        )
    costs = (*tokens.values(), "FLOPs", "s", "tokens/s (useful)")
    seeds = ("seeds",) if several_seeds else ()
    errors = ("errors",) if some_failed else ()
    problem_counts = ("problems",) if len(counts) > 1 else ()
    size = "" if len(counts) > 1 else f", {max(counts):,} problems"
    return Cells(
        title=f"Accuracy and mean cost per problem (Wilson 95% interval over {Over.BOTH}{size})",
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


def _unjudged_notes(candidates: pd.DataFrame) -> list[str]:
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


def _subtitle(problems: pd.DataFrame, pool: SampleCurves | None) -> str:
    judges = problems["verifier_model"].dropna()
    names = [Path(name).name for name in (problems["policy_model"].iloc[0], *judges.head(1))]
    ks = f", k = 1 ... {max(pool.costs)} samples" if pool is not None else ""
    return f"{' + '.join(names)}, {graded(problems)['problem_id'].nunique()} problems{ks}, 95% intervals"


def _markdown(name: str, tables: Sequence[Cells], notes: Sequence[str], has_figure: bool) -> str:
    picture = ["![Accuracy against compute](compute_accuracy.png)"] if has_figure else []
    remarks = ["```\n" + "\n".join(notes) + "\n```"] if notes else []
    return "\n\n".join([f"# {name}", *picture, *(table.markdown() for table in tables), *remarks]) + "\n"


def _count(column: pd.Series) -> str:
    return f"{column.mean():,.0f}" if len(column) else "-"

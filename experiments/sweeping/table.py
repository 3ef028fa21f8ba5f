"""What a sweep found: each strategy of each cell, side by side. Reads only Parquet."""

from collections.abc import Sequence

import pandas as pd

from experiments.analysis.answer_shares import SHOWN, Shares, shares_of
from experiments.analysis.intervals import Interval, Over, mean_over, wilson_interval
from experiments.analysis.tables import Cells, percent, si
from experiments.sweeping.cells import Cell, Sweep
from experiments.sweeping.dry_run import shown
from orchestrator.core.errors import UserError
from orchestrator.results import read_results

_GROUP = ["strategy", "params", "label"]
_SEEDS, _PROBLEMS = "± seeds", "± problems"


def results_table(sweep: Sweep) -> Cells | None:
    """Cells without a row are left out; None where none has any."""
    lines: list[tuple[str, dict[str, str]]] = []
    for cell in sweep.cells:
        if found := _lines(cell):
            lines += [(shown(cell), {}), *found]
    if not lines:
        return None
    used = {name for _, values in lines for name in values}
    order = ("accuracy %", _SEEDS, _PROBLEMS, *Shares().shown(), "tokens", "FLOPs", "s", "samples", "errors")
    headers = [name for name in order if name in used]
    over = "problems and seeds" if _SEEDS in used else "problems"
    return Cells(
        title=f"{sweep.name}: accuracy and mean cost per problem (Wilson 95% interval over {over})",
        headers=("cell and strategy", *headers),
        rows=[[label, *(values.get(name, "" if not values else "-") for name in headers)] for label, values in lines],
        wide=("s", _PROBLEMS),
    )


def results_notes(table: Cells) -> list[str]:
    """What its columns mean."""
    lines = []
    if _SEEDS in table.headers:
        lines.append(
            f"{_SEEDS}: 95% if the same problems were sampled again; {_PROBLEMS}: 95% for other problems, had each "
            "samples without end; the interval beside the accuracy holds both"
        )
    if "samples" in table.headers:
        lines.append("samples: replayed = answered from the samples of a larger n of the same sweep and seed")
    return lines


def _lines(cell: Cell) -> list[tuple[str, dict[str, str]]]:
    try:
        problems, candidates = read_results(cell.folder)
    except UserError:  # no rows yet
        return []
    shares = {key: shares_of(rows).shown() for key, rows in candidates.groupby(_GROUP, sort=False)}
    return [(f"  {key[2]}", _values(rows, shares.get(key, {}))) for key, rows in problems.groupby(_GROUP, sort=False)]


def _values(rows: pd.DataFrame, shares: dict[str, float]) -> dict[str, str]:
    finished = rows[rows["status"] == "ok"]
    graded = finished[finished["correct"].notna()]
    values = {name: f"{100 * share:.1f}" for name, share in shares.items() if share > SHOWN}
    if len(graded):
        by_problem = graded["correct"].groupby(graded["problem_id"])
        outcomes = {str(problem): group.astype(float).tolist() for problem, group in by_problem}
        total = len(outcomes)
        correct = sum(sum(one) / len(one) for one in outcomes.values())
        values["accuracy %"] = percent(wilson_interval(min(total, correct), total))
        if total > 1 and min(map(len, outcomes.values())) > 1:  # else seeds and problems can't be told apart
            values |= {
                _SEEDS: _half_width(mean_over(outcomes, Over.SEEDS)),
                _PROBLEMS: _half_width(mean_over(outcomes, Over.PROBLEMS)),
            }
    if len(finished):
        timed = finished[finished["replayed_from"].isna()]
        values["tokens"] = f"{finished['generated_tokens'].mean():,.0f}"
        values["FLOPs"] = si((finished["policy_flops"] + finished["verifier_flops"]).mean())
        if len(timed):
            values["s"] = f"{timed['wall_s'].mean():.2f}"
        if len(timed) < len(finished):
            values["samples"] = "replayed" if timed.empty else "some replayed"
    if num_errors := len(rows) - len(finished):
        values["errors"] = str(num_errors)
    return values


def _half_width(interval: Interval) -> str:
    return f"{50 * (interval.high - interval.low):.1f}"


def markdown(sweep: Sweep, table: Cells, notes: Sequence[str]) -> str:
    """The file `sweep.md`."""
    return "\n\n".join([f"# {sweep.name}", table.markdown(), *notes]) + "\n"

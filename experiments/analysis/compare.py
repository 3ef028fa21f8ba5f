"""Two runs on the same problems: paired differences by strategy and by difficulty. Reads results folders only.

Rows are paired by strategy, problem and seed. Differences are second - first, intervals over problems and seeds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean

import pandas as pd

from experiments.analysis.difficulty import (
    NUM_BINS,
    Difficulty,
    difficulty_bins,
    oracle_difficulty,
    predicted_difficulty,
)
from experiments.analysis.frames import accuracies, graded, largest_sample_sets, outcomes
from experiments.analysis.frontier import Cost, Outcome, mean_costs
from experiments.analysis.paired import PairedComparison, compare_paired, holm
from experiments.analysis.run_settings import RunSettings, read_settings, setting_notes
from orchestrator.core.errors import UserError
from orchestrator.results import read_results

_STRATEGY = ["strategy", "params", "label"]
_NUM_NAMED = 5  # strategies that a note names


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedStrategy:
    """A strategy in both runs. `ratios`: mean cost of the second over that of the first, on the compared problems; None
    where the first cost nothing. `quintile`: 1 (easiest) to 5; None: all problems."""

    label: str
    quintile: int | None
    comparison: PairedComparison  # ours: the second run
    adjusted_p: float  # Holm's, over all rows of the table
    ratios: Mapping[Cost, float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunComparison:
    """In words: what the quintiles are of, how the settings differ, and what was left out."""

    first: Path
    second: Path
    difficulty: str
    strategies: Sequence[ComparedStrategy]
    quintiles: Sequence[ComparedStrategy]
    differences: Sequence[str]
    notes: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Run:
    path: Path
    problems: pd.DataFrame
    candidates: pd.DataFrame
    settings: RunSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pair:
    """Outcomes of one strategy in both runs, on the same problems, by problem."""

    label: str
    first: Mapping[str, Outcome]
    second: Mapping[str, Outcome]
    notes: Sequence[str]  # without the label


def compare(first: Path, second: Path, difficulty: Difficulty = Difficulty.oracle) -> RunComparison:
    """The second run against the first. Raises UserError for a folder without results, and for two that have no
    problem, no strategy or no such difficulty in common."""
    runs = _read(first), _read(second)
    _check_problems(*runs)
    matched, unmatched = _matched(*runs)
    pairs = [_pair(ours, theirs) for ours, theirs in matched]
    notes = [*unmatched, *_told_once(pairs)]
    pairs = [pair for pair in pairs if pair.first]
    if not pairs:
        reasons = "; ".join(notes) or "no row was graded"
        raise UserError(f"compare: {first} and {second} have no strategy with a problem graded in both: {reasons}")
    by_problem, what = _difficulty(*runs, difficulty)
    by_problem = {
        problem: value for problem, value in by_problem.items() if any(problem in pair.first for pair in pairs)
    }
    quintiles: list[tuple[_Pair, int | None, list[str]]] = []
    if len(by_problem) < NUM_BINS:
        notes.append(f"no quintiles: {len(by_problem)} compared problems have a difficulty, wanted at least {NUM_BINS}")
    else:
        bins = difficulty_bins(by_problem)
        for pair in pairs:
            inside = [(number, [p for p in pair.first if bins.get(p) == number]) for number in range(1, NUM_BINS + 1)]
            quintiles += [(pair, number, problems) for number, problems in inside if problems]
    return RunComparison(
        first=first,
        second=second,
        difficulty=what,
        strategies=_rows([(pair, None, list(pair.first)) for pair in pairs]),
        quintiles=_rows(quintiles),
        differences=setting_notes(runs[0].settings, runs[1].settings),
        notes=[*_data_notes(*runs), *notes],
    )


def _read(folder: Path) -> _Run:
    problems, candidates = read_results(folder)
    return _Run(path=folder, problems=problems, candidates=candidates, settings=read_settings(folder))


def _check_problems(first: _Run, second: _Run) -> None:
    ids = [set(run.problems["problem_id"]) for run in (first, second)]
    if not ids[0] & ids[1]:
        has = [
            f"{run.path} has {len(found)} of {run.settings.data() or 'data it does not name'}, such as {min(found)!r}"
            for run, found in zip((first, second), ids, strict=True)
        ]
        raise UserError(
            f"compare: the two runs have no problem in common, so nothing can be paired: {', '.join(has)}; "
            "wanted two runs on the same data"
        )


def _data_notes(first: _Run, second: _Run) -> list[str]:
    """Ids may be equal where problems are not, such as the lines of two files."""
    data = first.settings.data(), second.settings.data()
    notes = []
    if None not in data and data[0] != data[1]:
        notes.append(
            f"warning: the data differ ({data[0]} in the first, {data[1]} in the second): problems are paired by id, "
            "so this is a comparison only if equal ids are equal problems"
        )
    ids = set(first.problems["problem_id"]), set(second.problems["problem_id"])
    if ids[0] != ids[1]:
        notes.append(
            f"{len(ids[0] & ids[1])} problems are in both runs; {len(ids[0] - ids[1])} are only in the first, "
            f"{len(ids[1] - ids[0])} only in the second, and count nowhere"
        )
    return notes


def _matched(first: _Run, second: _Run) -> tuple[list[tuple[pd.DataFrame, pd.DataFrame]], list[str]]:
    """The rows of each strategy in both runs, and a note for each strategy that only one has.

    Equal parameters first, then equal labels (versions record different fields), then what is left where each run has
    one of that name: a run with n=8 against one with n=16.
    """
    groups = [list(run.problems.groupby(_STRATEGY, sort=False)) for run in (first, second)]
    left = [{key: rows for key, rows in found} for found in groups]
    pairs = []
    for part in (lambda key: key[:2], lambda key: (key[0], key[2]), lambda key: key[0]):
        for name in dict.fromkeys(part(key) for key in left[0]):
            ours, theirs = ([key for key in side if part(key) == name] for side in left)
            if len(ours) == len(theirs) == 1:
                pairs.append((left[0].pop(ours[0]), left[1].pop(theirs[0])))
    order = {key: i for i, (key, _) in enumerate(groups[0])}
    pairs.sort(key=lambda pair: order[tuple(pair[0][_STRATEGY].iloc[0])])
    names = [[label for _, _, label in side] for side in left]
    return pairs, [
        f"only in the {which}: {_some(labels)}"
        for which, labels in zip(("first", "second"), names, strict=True)
        if labels
    ]


def _pair(first: pd.DataFrame, second: pd.DataFrame) -> _Pair:
    """Of equal problems and seeds; without a seed in common, each problem's mean over the seeds that each run has."""
    labels = [str(rows["label"].iloc[0]) for rows in (first, second)]
    label = labels[0] if labels[0] == labels[1] else f"{labels[0]} / {labels[1]}"
    kept, notes = [graded(first), graded(second)], []
    lost = [len(rows) - len(found) for rows, found in zip((first, second), kept, strict=True)]
    if any(lost):
        notes.append(f"rows that are errors or undecided: {lost[0]} of the first, {lost[1]} of the second")
    seeds = [set(rows["seed"]) for rows in (first, second)]
    if common := seeds[0] & seeds[1]:
        keys = [pd.MultiIndex.from_frame(rows[["problem_id", "seed"]]) for rows in kept]
        kept = [rows[own.isin(other)] for rows, own, other in zip(kept, keys, reversed(keys), strict=True)]
        if seeds[0] != seeds[1]:
            notes.append(f"compared under the seeds that both have: {_listed(common)}")
    else:
        problems = set(kept[0]["problem_id"]) & set(kept[1]["problem_id"])
        kept = [rows[rows["problem_id"].isin(problems)] for rows in kept]
        notes.append(
            f"no seed in common (first {_listed(seeds[0])}, second {_listed(seeds[1])}), "
            "so problems are paired by their means over seeds"
        )
    return _Pair(label=label, first=outcomes(kept[0]), second=outcomes(kept[1]), notes=notes)


def _told_once(pairs: Sequence[_Pair]) -> list[str]:
    """The notes of all pairs, each after the strategies that it is of."""
    labels: dict[str, list[str]] = {}
    for pair in pairs:
        for note in pair.notes:
            labels.setdefault(note, []).append(pair.label)
    return [
        f"{'all strategies' if len(found) == len(pairs) > 1 else _some(found)}: {note}"
        for note, found in labels.items()
    ]


def _rows(cells: Sequence[tuple[_Pair, int | None, list[str]]]) -> list[ComparedStrategy]:
    """(strategy, quintile, its problems) as rows of one table."""
    compared = [
        compare_paired(
            {problem: pair.second[problem].accuracy for problem in problems},
            {problem: pair.first[problem].accuracy for problem in problems},
        )
        for pair, _, problems in cells
    ]
    adjusted = holm([comparison.p_value for comparison in compared])
    return [
        ComparedStrategy(
            label=pair.label, quintile=quintile, comparison=comparison, adjusted_p=p, ratios=_ratios(pair, problems)
        )
        for (pair, quintile, problems), comparison, p in zip(cells, compared, adjusted, strict=True)
    ]


def _ratios(pair: _Pair, problems: Sequence[str]) -> dict[Cost, float | None]:
    first, second = (mean_costs([side[problem] for problem in problems]) for side in (pair.first, pair.second))
    return {cost: second.of(cost) / first.of(cost) if first.of(cost) else None for cost in Cost}


def _difficulty(first: _Run, second: _Run, kind: Difficulty) -> tuple[dict[str, float], str]:
    """problem -> difficulty, and what it is in words. Means of both runs where they measure it: a quintile by one run's
    own samples would hold its lucky problems among the easy ones, and show a difference where there is none."""
    if kind is Difficulty.dataset:
        known = pd.concat([run.problems[["problem_id", "difficulty"]] for run in (first, second)]).dropna()
        if known.empty:
            raise UserError(
                "compare: wanted --difficulty oracle or predicted: the data set grades no problem, got dataset"
            )
        grades = known.groupby("problem_id")["difficulty"].mean()
        return {str(problem): float(grade) for problem, grade in grades.items()}, "the data set's own grade"
    samples = [largest_sample_sets(run.problems, run.candidates) for run in (first, second)]
    if kind is Difficulty.predicted:
        predicted = [predicted_difficulty(found) for found in samples]
        if not predicted[0].keys() & predicted[1].keys():
            raise UserError(
                "compare: wanted --difficulty oracle: a predicted one is the verifier's mean score of independent "
                "samples, which not both runs have"
            )
        return _mean_of_both(*predicted), "predicted: the verifier's mean score in both runs"
    if all(samples):
        measured = [oracle_difficulty(found) for found in samples]
        return _mean_of_both(*measured), "oracle: pass@1 of the samples of both runs"
    rates = [accuracies(graded(run.problems)) for run in (first, second)]
    wrong = [{problem: 1 - rate for problem, rate in found.items()} for found in rates]
    return _mean_of_both(*wrong), "oracle: the share of all searches of both runs that is right"


def _mean_of_both(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, float]:
    return {problem: fmean((first[problem], second[problem])) for problem in first if problem in second}


def _some(labels: Sequence[str]) -> str:
    more = f" and {len(labels) - _NUM_NAMED} more" if len(labels) > _NUM_NAMED else ""
    return ", ".join(labels[:_NUM_NAMED]) + more


def _listed(seeds: set[int]) -> str:
    return ", ".join(map(str, sorted(seeds)))

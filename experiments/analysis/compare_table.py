"""A comparison of two runs for the terminal."""

from collections.abc import Sequence

from rich.console import Console

from experiments.analysis.compare import ComparedStrategy, RunComparison
from experiments.analysis.frontier import Cost
from experiments.analysis.intervals import Interval
from experiments.analysis.tables import Cells, percent

_WIDE = ("first interval", "second interval", "better / worse", "p", f"{Cost.SECONDS} ×")
_WIDE_BY_QUINTILE = (*_WIDE, "problems", f"{Cost.TOKENS} ×", f"{Cost.FLOPS} ×")
_NARROW = 150  # characters


def show_comparison(found: RunComparison, console: Console) -> None:
    """Prints what differs, the tables and what was left out."""

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False)

    say(f"first:  {found.first}")
    say(f"second: {found.second}")
    if found.differences:
        say("The runs differ in")
        for difference in found.differences:
            say(f"  {difference}")
    else:
        say("Their settings are equal.")
    say("")
    for table in comparison_tables(found):
        console.print(table.rich(console.width))
    for note in found.notes:
        say(note)


def comparison_tables(found: RunComparison) -> list[Cells]:
    """By strategy and, where there are quintiles, by them."""
    over = found.strategies[0].comparison.difference.over
    counts = {row.comparison.num_problems for row in found.strategies}
    size = f", {max(counts):,} problems" if len(counts) == 1 else ""
    title = f"By strategy{size} (difference: second - first in points, paired; 95% intervals over {over}; p after Holm)"
    tables = [_table(title, found.strategies)]
    if found.quintiles:
        title = f"By quintile of difficulty, 1 is easiest ({found.difficulty}; intervals and p as above)"
        tables.append(_table(title, found.quintiles))
    return tables


def _table(title: str, rows: Sequence[ComparedStrategy]) -> Cells:
    by_quintile = rows[0].quintile is not None
    several_sizes = len({row.comparison.num_problems for row in rows}) > 1
    cells = []
    for before, row in zip((None, *rows), rows, strict=False):
        found = row.comparison
        again = before is not None and before.label == row.label
        cells.append(
            [
                "" if again else row.label,
                *([str(row.quintile)] if by_quintile else []),
                *([f"{found.num_problems:,}"] if several_sizes else []),
                *(text for side in (found.theirs, found.ours) for text in percent(side).split(" ", 1)),
                points(found.difference),
                f"{found.better} / {found.worse}",
                p_value(found.p_value),
                p_value(row.adjusted_p),
                *("-" if (ratio := row.ratios[cost]) is None else f"{ratio:.2f}" for cost in Cost),
            ]
        )
    return Cells(
        title=title,
        headers=(
            "strategy",
            *(("quintile",) if by_quintile else ()),
            *(("problems",) if several_sizes else ()),
            "first %",
            "first interval",
            "second %",
            "second interval",
            "difference",
            "better / worse",
            "p",
            "p (Holm)",
            *(f"{cost} ×" for cost in Cost),
        ),
        rows=cells,
        wide=_WIDE_BY_QUINTILE if by_quintile else _WIDE,
        narrow=_NARROW,
    )


def points(interval: Interval) -> str:
    """A difference in percentage points, with its interval."""
    return f"{100 * interval.value:+.1f} [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"


def p_value(p: float) -> str:
    return "<0.001" if p < 0.001 else f"{p:.3f}"

"""`report.html`: what one run or several say, as one page that needs no network and runs nobody else's script.

All texts go through a template that escapes them, or as JSON that no text can end; a Content-Security-Policy allows the
page's own script and style by their hashes, and nothing else. Without a script the page still holds all it says.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from importlib.resources import files
from itertools import groupby
from typing import Any

import jinja2
from markupsafe import Markup

from experiments.analysis.compare import ComparedStrategy, compare
from experiments.analysis.compare_table import comparison_tables, points
from experiments.analysis.detectable import POWER, smallest_detectable
from experiments.analysis.findings import INTERVALS
from experiments.analysis.page.view import RunView
from experiments.analysis.pairwise import ALPHA, pairs_table
from experiments.analysis.tables import Cells
from orchestrator.core.errors import UserError
from orchestrator.serving.page import file_policy

_NUMBER = re.compile(r"^[<+]?(-?[\d,]+(?:\.\d+)?(?:e[+-]?\d+)?) ?([kMGTPE]?)\b")
_PREFIXES = " kMGTPE"


def page_of(runs: Sequence[RunView]) -> str:
    """The page of at least one run; the later ones are held against the first."""
    if len({run.name for run in runs}) < len(runs):
        runs = [replace(run, name=str(run.folder)) for run in runs]
    script, style = _text("report.js"), _text("report.css")
    return _template().render(
        title=f"{', '.join(run.name for run in runs)}: report",
        policy=file_policy(script, style),
        script=Markup(script),
        style=Markup(style),
        intervals=INTERVALS,
        runs=[_run(number, run) for number, run in enumerate(runs)],
        comparisons=[_comparison(runs[0], other) for other in runs[1:]],
        together=_json(_series(runs)) if len(runs) > 1 else None,
    )


def sort_value(cell: str) -> float | None:
    """The number that a cell begins with, such as 91.7 of "91.7 [65, 99]" and 1.25e9 of "1.25 G"; None for words."""
    found = _NUMBER.match(cell)
    if found is None:
        return None
    return float(found[1].replace(",", "")) * 1000.0 ** _PREFIXES.index(found[2] or " ")


def _run(number: int, run: RunView) -> dict[str, Any]:
    tables = [*run.summary.tables, *([pairs_table(run.tested)] if run.tested else [])]
    return {
        "id": f"run-{number}",
        "view": run,
        "findings": [(kind.value, list(found)) for kind, found in groupby(run.findings, key=lambda one: one.kind)],
        "tables": [_table(table) for table in tables],
        "chart": _json(_series([run])) if len(run.tidy) else None,
        "examples": [("Worst", run.worst), ("Best", run.best)],
    }


def _comparison(first: RunView, second: RunView) -> dict[str, Any]:
    """Words and tables, or why there are none."""
    names = {"first": first.name, "second": second.name}
    try:
        found = compare(first.folder, second.folder)
    except UserError as error:
        return {**names, "refused": str(error), "tables": [], "differences": [], "notes": [], "lines": []}
    lines = [_line(row, first.name, second.name, len(found.strategies)) for row in found.strategies]
    return {
        **names,
        "refused": None,
        "lines": lines,
        "tables": [_table(table) for table in comparison_tables(found)],
        "differences": found.differences,
        "notes": found.notes,
    }


def _line(row: ComparedStrategy, first: str, second: str, num_compared: int) -> str:
    found = row.comparison
    told = f"{points(found.difference)} points on the same {found.num_problems:,} problems"
    if row.adjusted_p < ALPHA:
        which = "more" if found.difference.value > 0 else "less"
        return f"{row.label}: {second} is significantly {which} accurate than {first}, {told}."
    least = smallest_detectable(found, num_comparisons=num_compared)
    would = (
        "on so few none could be shown" if least is None else f"{POWER:.0%} of such runs would show {100 * least:.1f}"
    )
    return f"{row.label}: no significant difference is shown, {told}; {would}."


def _table(cells: Cells) -> dict[str, Any]:
    rows, before = [], ""
    for first, *others in cells.rows:
        before = first or before  # a name is written once for several rows: sorted, each needs its own
        rows.append([(cell, sort_value(cell)) for cell in (before, *others)])
    return {"title": cells.title, "headers": cells.headers, "rows": rows}


def _series(runs: Sequence[RunView]) -> list[dict[str, Any]]:
    """The points of the runs by series: `x` by cost, where it is known, accuracies in 0..1."""
    found = []
    for number, run in enumerate(runs):
        for (kind, series), rows in run.tidy.groupby(["kind", "series"], sort=False):
            name = f"{series} (upper bound)" if series == "pass@k" else str(series)
            found.append(
                {
                    "name": f"{run.name}: {name}" if len(runs) > 1 else name,
                    "series": str(series),
                    "run": number,
                    "curve": kind == "curve",
                    "points": [_point(point) for point in rows.to_dict("records")],
                }
            )
    return found


def _point(point: Mapping[str, Any]) -> dict[str, Any]:
    k = None if point["k"] is None or point["k"] != point["k"] else int(point["k"])
    curve = point["kind"] == "curve"
    return {
        "name": f"{point['series'].removesuffix('@k')}@{k}" if curve else point["label"],
        "x": {
            "tokens": point["generated_tokens"],
            "flops": point["total_flops"] or None,
            "k": k,
        },
        "y": point["accuracy"],
        "low": point["low"],
        "high": point["high"],
        "problems": point["num_problems"],
    }


def _json(value: Any) -> Markup:
    """For a script element of data: nothing in it ends the element."""
    return Markup(json.dumps(value, ensure_ascii=False, allow_nan=False).replace("<", "\\u003c"))


@cache
def _template() -> jinja2.Template:
    """Escapes every value that is not marked as safe; a name that does not exist is an error."""
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return environment.from_string(_text("report.html.j2"))


@cache
def _text(name: str) -> str:
    return (files(__name__) / name).read_text(encoding="utf-8")

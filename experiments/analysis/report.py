"""What a finished run says: accuracy against what it cost, as tables, a tidy frame and a figure.

Analysis reads only Parquet. Problems that ended in an error are counted and named, and never scored.
"""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd
from matplotlib import rc_context
from rich.console import Console

from experiments.analysis.curves import SampleCurves
from experiments.analysis.figure import draw
from experiments.analysis.frames import graded
from experiments.analysis.page import page_of
from experiments.analysis.page.view import read_view
from experiments.analysis.summary import Summary
from orchestrator.core.errors import UserError
from orchestrator.results.files import write_output


def report(folder: Path, console: Console, *, page: Path | None = None) -> None:
    """Prints the tables of a run and writes them, the figure and the page into its folder; `page` is another place for
    the page. Raises UserError."""
    view = read_view(folder)
    for table in view.summary.tables:
        console.print(table.rich(console.width))
    for note in view.summary.notes:
        console.print(note, markup=False, highlight=False)

    has_figure = not view.tidy.empty
    files = {folder / "report.md": _markdown(view.name, view.summary, has_figure=has_figure).encode()}
    if has_figure:
        subtitle = _subtitle(view.problems, view.pool)
        figure = draw(view.tidy, title="Accuracy bought with test-time compute", subtitle=subtitle)
        for kind in ("png", "svg"):
            image = io.BytesIO()
            with rc_context({"svg.hashsalt": "headrace"}):  # equal figures are equal files
                figure.savefig(image, format=kind, dpi=200, metadata={"Date": None} if kind == "svg" else None)
            files[folder / f"compute_accuracy.{kind}"] = image.getvalue()
    files[page or folder / "report.html"] = page_of([view]).encode()
    _write(files)
    inside = [path.name for path in files if path.parent == folder]
    console.print(f"Wrote {', '.join(inside)} to {folder}", markup=False, highlight=False, soft_wrap=True)
    if page is not None:
        console.print(f"Wrote {page}", markup=False, highlight=False, soft_wrap=True)


def report_together(folders: Sequence[Path], console: Console, page: Path) -> None:
    """Writes one page of several runs, in which the later are held against the first. Raises UserError."""
    _write({page: page_of([read_view(folder) for folder in folders]).encode()})
    console.print(f"Wrote {page}", markup=False, highlight=False, soft_wrap=True)


def _write(files: Mapping[Path, bytes]) -> None:
    for path, data in files.items():
        try:
            write_output(path, data)
        except OSError as error:
            raise UserError(f"report: can't write to {path}: {error.strerror or error}") from error


def _subtitle(problems: pd.DataFrame, pool: SampleCurves | None) -> str:
    judges = problems["verifier_model"].dropna()
    names = [Path(name).name for name in (problems["policy_model"].iloc[0], *judges.head(1))]
    ks = f", k = 1 ... {max(pool.costs)} samples" if pool is not None else ""
    return f"{' + '.join(names)}, {graded(problems)['problem_id'].nunique()} problems{ks}, 95% intervals"


def _markdown(name: str, summary: Summary, *, has_figure: bool) -> str:
    picture = ["![Accuracy against compute](compute_accuracy.png)"] if has_figure else []
    remarks = ["```\n" + "\n".join(summary.notes) + "\n```"] if summary.notes else []
    return "\n\n".join([f"# {name}", *picture, *(table.markdown() for table in summary.tables), *remarks]) + "\n"

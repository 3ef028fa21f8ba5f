"""What the command shows of work that goes on: a bar, the stage, errors as they come."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)

if TYPE_CHECKING:
    from experiments.analysis.answer_shares import OnAnswer
    from orchestrator.results import CandidateRow, ProblemRow
    from orchestrator.runner import OnRow


def progress_bar(console: Console) -> Progress:
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[errors]}"),
        TimeElapsedColumn(),
        console=console,
    )


def stages(progress: Progress, bar: TaskID) -> Callable[..., None]:
    """Shows the stage that begins, with what it counts if that is given; as a line where there is no terminal."""

    def on_stage(stage: str, total: int | None = None) -> None:
        if total is None:
            progress.update(bar, description=stage)
        else:
            progress.reset(bar, description=stage, total=total or None)
        if not progress.console.is_terminal:
            progress.console.print(stage, highlight=False, markup=False)

    return on_stage


def say_failed(console: Console, failed: Mapping[str, str], what: str) -> None:
    """The errors of problems, by their ids."""
    for problem_id, error in failed.items():
        console.print(f"[red]failed:[/] {escape(problem_id)}: {escape(error)}", highlight=False, soft_wrap=True)
    if failed:
        console.print(f"{len(failed)} problems {what}")


def row_counter(progress: Progress, bar: TaskID) -> "OnRow":
    """Moves the bar on by a row."""
    count = error_counter(progress, bar)
    return lambda row, candidates: count(row.status == "error")


def row_watcher(progress: Progress, bar: TaskID) -> "OnRow":
    """Moves the bar on by a row, and warns as soon as the answers look wrong for reasons that are not the model's."""
    count, on_answer = row_counter(progress, bar), answer_watcher(progress)

    def on_row(row: "ProblemRow", candidates: Sequence["CandidateRow"]) -> None:
        count(row, candidates)
        for candidate in candidates:
            on_answer(
                answer=candidate.answer, status=candidate.status, undecided=candidate.undecided, text=candidate.text
            )

    return on_row


def answer_watcher(progress: Progress) -> "OnAnswer":
    """Warns as soon as the answers that it is told of look wrong for reasons that are not the model's."""
    from experiments.analysis.answer_shares import Watch

    watch = Watch()

    def on_answer(*, answer: str | None, status: str, undecided: str | None, text: str) -> None:
        for warning in watch.warnings(answer=answer, status=status, undecided=undecided, text=text):
            progress.console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False, soft_wrap=True)

    return on_answer


def error_counter(progress: Progress, bar: TaskID) -> Callable[[bool], None]:
    """Moves the bar on by a problem that failed or did not."""
    num_errors = 0

    def on_problem(failed: bool) -> None:
        nonlocal num_errors
        num_errors += failed
        progress.update(bar, advance=1, errors=f"[red]{num_errors} errors[/]" if num_errors else "")

    return on_problem

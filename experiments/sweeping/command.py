"""What `headrace sweep` does, with what it shows."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from experiments.analysis.tables import Cells
from experiments.running.run import versions
from experiments.sweeping.cells import Sweep
from experiments.sweeping.dry_run import notes, outlooks, shown, table
from experiments.sweeping.folder import SweepFolder
from experiments.sweeping.run import PlannedCell, SweepPlan, in_order, left_of, run_sweep
from experiments.sweeping.sharing import key_of
from experiments.sweeping.table import markdown, results_notes, results_table
from experiments.sweeping.view import SweepView, Work
from orchestrator.results.files import unwritable, write_output


def show_outlook(console: Console, sweep: Sweep, likes: Sequence[Path], *, fresh: bool) -> None:
    """The cells with what is left of each. Raises UserError."""
    found = outlooks(sweep, likes, fresh=fresh)
    console.print(table(sweep, found).rich(console.width))
    for note in notes(found):
        console.print(note, highlight=False, markup=False)


def run_and_show(
    console: Console, plan: SweepPlan, *, probe: int | None, resume: bool, overwrite: bool, again: str
) -> dict[str, str] | None:
    """Runs what is missing, and shows what was found. The errors of cells that failed, by name; None: interrupted.
    `again`: what to give to the command to go on. Raises UserError."""
    sweep = plan.sweep
    with SweepFolder.open(sweep, versions(), resume=resume, overwrite=overwrite) as folder:
        for warning in dict.fromkeys(warning for planned in plan.cells for warning in planned.plan.warnings):
            console.print(f"warning: {warning}", highlight=False, markup=False)
        works = [_work(planned, probe) for planned in in_order(plan.cells)]
        try:
            with SweepView(console, works) as view:
                failed = asyncio.run(run_sweep(plan, folder, view, probe=probe))
        except KeyboardInterrupt:
            jobs = [(planned, planned.plan.jobs) for planned in plan.cells]
            total, left = sum(len(of) for _, of in jobs), sum(len(left_of(planned, of)) for planned, of in jobs)
            console.print(
                f"interrupted: {total - left} of {total} searches are saved in {sweep.folder}; to finish: "
                f"headrace sweep {again} --resume",
                highlight=False,
                markup=False,
                soft_wrap=True,
            )
            return None
        if probe is None and (found := results_table(sweep)) is not None:
            _compare(console, sweep, found)
        return failed


def _compare(console: Console, sweep: Sweep, found: Cells) -> None:
    remarks = results_notes(found)
    console.print(found.rich(console.width))
    for remark in remarks:
        console.print(remark, highlight=False, markup=False)
    try:
        write_output(sweep.folder / "sweep.md", markdown(sweep, found, remarks).encode())
    except OSError as error:
        raise unwritable(sweep.folder, error) from error
    console.print(
        f"wrote sweep.md to {sweep.folder}; each cell is a run there, as for headrace report",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _work(planned: PlannedCell, probe: int | None) -> Work:
    jobs = planned.plan.jobs if probe is None else planned.own_jobs(probe)
    left = left_of(planned, jobs)
    strategies = planned.plan.strategies
    return Work(
        name=planned.cell.name,
        shown=shown(planned.cell),
        total=len(jobs),
        done=len(jobs) - len(left),
        left=Counter(key for job in left if (key := (job.strategy_name, job.params)) not in planned.sources),
        sizes={key_of(one): most for one in strategies if (most := one.strategy.most_candidates) is not None},
        budget=planned.cell.config.run_budget,
    )

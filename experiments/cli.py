"""The `headrace` command. A user's mistake is one line and exit code 2; a failed run is exit code 1."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from experiments.analysis.difficulty import Difficulty
from experiments.bench.cli import app as bench_commands
from experiments.progress import (
    answer_watcher,
    error_counter,
    progress_bar,
    row_counter,
    row_watcher,
    say_failed,
    stages,
)
from orchestrator.core.errors import HeadraceError, UserError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    help="Test-time compute on Ray: search with a policy pool and a streaming verifier pool.",
)
app.add_typer(bench_commands, name="bench")
key_commands = typer.Typer(no_args_is_help=True, help="API keys of the endpoint.")
app.add_typer(key_commands, name="key")
console = Console()
errors = Console(stderr=True)

ConfigPath = Annotated[Path, typer.Argument(help="A YAML file, see configs/.", show_default=False)]
Overrides = Annotated[list[str] | None, typer.Argument(help="Overrides such as policy.replicas=2.", show_default=False)]


@app.command()
def run(
    config: ConfigPath,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Finish a run that was interrupted.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of this run.")] = False,
) -> None:
    """Run every strategy of a YAML file on every problem, into Parquet, and report."""
    from experiments.analysis.report import report as write_report
    from experiments.running.run import Plan, execute, open_results, plan_run
    from orchestrator.runner import strategy_label

    plan: Plan = plan_run(config, overrides or [])
    with open_results(plan, resume=resume, overwrite=overwrite) as results:
        jobs = plan.jobs
        done = len(results.done_keys())
        console.print(
            f"[bold]{plan.config.name}[/]: {len(plan.dataset.examples)} problems, {len(plan.config.seeds)} seed(s), "
            f"{len(plan.strategies)} strategies, {len(jobs)} searches" + (f", {done} done before" if done else "")
        )
        for named in plan.strategies:
            console.print(f"  {strategy_label(named.name, named.strategy)}", highlight=False)
        for warning in plan.warnings:
            console.print(f"[yellow]warning:[/] {escape(warning)}", highlight=False)
        with progress_bar(console) as progress:
            bar = progress.add_task("starting", total=len(jobs), completed=done, errors="")
            try:
                asyncio.run(
                    execute(
                        plan,
                        results,
                        on_stage=stages(progress, bar),
                        on_row=row_watcher(progress, bar),
                        on_note=lambda note: progress.console.print(note, highlight=False, markup=False),
                    )
                )
            except KeyboardInterrupt:
                results.flush()
                progress.stop()
                errors.print(
                    f"interrupted: {len(results.done_keys())} of {len(jobs)} searches are saved in {plan.folder}; "
                    f"to finish: headrace run {config} --resume"
                )
                raise typer.Exit(130) from None
    write_report(plan.folder, console)


@app.command()
def sweep(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and estimate them; run nothing.")] = False,
    like: Annotated[
        list[Path] | None, typer.Option(help="An earlier run to estimate from; may be repeated.", show_default=False)
    ] = None,
    probe: Annotated[
        int | None, typer.Option(help="Run so many problems of each cell, then estimate.", min=1, show_default=False)
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Run what is missing: also of cells that are new.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of all cells.")] = False,
) -> None:
    """Run every combination of the axes in a YAML file, on models that stay loaded, and compare."""
    from experiments.sweeping.cells import read_sweep
    from experiments.sweeping.command import run_and_show, show_outlook
    from experiments.sweeping.run import plan_sweep

    if dry_run:
        show_outlook(console, read_sweep(config, overrides or []), like or [], fresh=overwrite)
        return
    plan = plan_sweep(config, overrides or [])
    failed = run_and_show(console, plan, probe=probe, resume=resume, overwrite=overwrite, again=f"{config}")
    if failed is None:
        raise typer.Exit(130)
    if probe is not None:
        show_outlook(console, plan.sweep, like or [], fresh=False)
        console.print(f"to run the rest: headrace sweep {config} --resume", highlight=False, soft_wrap=True)
    for name, error in failed.items():
        errors.print(f"[red]failed:[/] {escape(name)}: {escape(error)}", highlight=False, soft_wrap=True)
    if failed:
        raise typer.Exit(1)


@app.command()
def replay(
    recorded: Annotated[Path, typer.Argument(metavar="RUN", help="A results folder.", show_default=False)],
    config: ConfigPath,
    overrides: Overrides = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of this replay.")] = False,
) -> None:
    """Run the strategies of a YAML file over the recorded samples of a run, without an engine, and report."""
    from experiments.analysis.report import report as write_report
    from experiments.replay.run import info_of, plan_replay
    from experiments.replay.run import replay as run_replay
    from experiments.running.run import versions
    from orchestrator.results import ResultsWriter

    plan = plan_replay(recorded, config, overrides or [])
    writer = ResultsWriter.open(plan.folder, run_yaml=plan.resolved_yaml, versions=versions(), overwrite=overwrite)
    with writer as results, progress_bar(console) as progress:
        bar = progress.add_task("replaying", total=len(plan.jobs), errors="")
        asyncio.run(
            run_replay(
                plan.recording,
                plan.jobs,
                results=results,
                info=info_of(plan.recording, plan.folder.name),
                source=plan.source,
                in_flight=plan.config.problems_in_flight,
                timeout_s=plan.config.problem_timeout_s,
                on_row=row_counter(progress, bar),
            )
        )
    write_report(plan.folder, console)


@app.command()
def label(
    config: ConfigPath,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Finish a labelling that was interrupted.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the labels of this folder.")] = False,
) -> None:
    """Label the steps of solutions, into Parquet: by rollouts, by a verifier, exactly, or from others' files."""
    from experiments.labelling.run import compared, execute, open_labels, plan_label, summary

    plan = plan_label(config, overrides or [])
    with open_labels(plan, resume=resume, overwrite=overwrite) as labels, progress_bar(console) as progress:
        bar = progress.add_task("starting", total=len(plan.problems), completed=len(labels.done()), errors="")
        count_errors = error_counter(progress, bar)
        try:
            failed = asyncio.run(
                execute(
                    plan,
                    labels,
                    on_stage=stages(progress, bar),
                    on_problem=lambda error: count_errors(error is not None),
                    on_answer=answer_watcher(progress),
                )
            )
        except KeyboardInterrupt:
            labels.flush()
            progress.stop()
            errors.print(
                f"interrupted: {len(labels.done())} of {len(plan.problems)} problems are saved in {plan.folder}; "
                f"to finish: headrace label {config} --resume"
            )
            raise typer.Exit(130) from None
    console.print(summary(plan, labels), highlight=False, markup=False)
    say_failed(errors, failed, f"have no labels; to try them again: headrace label {config} --resume")
    if plan.config.compare is not None:
        console.print(compared(plan), highlight=False, markup=False)


@app.command()
def report(
    folders: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Results folders.", show_default=False)],
    out: Annotated[
        Path | None,
        typer.Option(help="The HTML file; without it, report.html in RUN, or together.html in the first of several."),
    ] = None,
) -> None:
    """Report on runs: findings, curves, tables and examples as one HTML page; tables and figure as files beside it."""
    from experiments.analysis.report import report as write_report
    from experiments.analysis.report import report_together

    if len(folders) == 1:
        write_report(folders[0], console, page=out)
        return
    for folder in folders:
        write_report(folder, console)
    report_together(folders, console, out or folders[0] / "together.html")


@app.command()
def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="A results folder.", show_default=False)],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="The one to hold against it.", show_default=False)],
    difficulty: Annotated[
        Difficulty,
        typer.Option(help="What quintiles are by: pass@1, the verifier's mean score, or the data set's grades."),
    ] = Difficulty.oracle,
) -> None:
    """Compare two runs on the same problems: paired differences by strategy and by difficulty."""
    from experiments.analysis.compare import compare as compare_runs
    from experiments.analysis.compare_table import show_comparison

    show_comparison(compare_runs(first, second, difficulty), console)


@app.command()
def show(
    run_folder: Annotated[Path, typer.Argument(metavar="RUN", help="A results folder.", show_default=False)],
    problem: Annotated[str, typer.Argument(help="The id of a problem.", show_default=False)],
    strategy: Annotated[str | None, typer.Option(help="By name or label; without it, all.", show_default=False)] = None,
    seed: Annotated[int | None, typer.Option(help="Without it, all.", show_default=False)] = None,
    text: Annotated[bool, typer.Option("--text", help="Show the tree in the terminal.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="The HTML file; without it, in RUN/pages.", show_default=False)
    ] = None,
) -> None:
    """Show the search trees of a problem: as an HTML file that needs no network, or in the terminal."""
    from experiments.analysis.show import kept_searches, page_file, text_of, write_page

    searches = kept_searches(run_folder, problem, strategy, seed)
    if text:
        for search in searches:
            console.print(text_of(search), highlight=False)
        return
    path = out or page_file(run_folder, problem)
    write_page(searches, f"{run_folder.resolve().name}: {problem}", path)
    console.print(f"wrote {path}: open it in a browser", highlight=False, markup=False, soft_wrap=True)


@app.command()
def judge(
    config: ConfigPath,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Judge with what has not judged yet.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the results of this comparison.")] = False,
) -> None:
    """Have every verifier of a YAML file judge the same solutions: what each finds, and what it costs."""
    from experiments.judging.run import judge as judge_all
    from experiments.judging.run import open_writers, plan_judging
    from experiments.judging.table import table

    plan = plan_judging(config, overrides or [])
    with open_writers(plan, resume=resume, overwrite=overwrite) as writers, progress_bar(console) as progress:
        bar = progress.add_task("starting", total=None, errors="")
        count_errors = error_counter(progress, bar)
        try:
            failed = asyncio.run(
                judge_all(
                    plan,
                    writers,
                    on_stage=stages(progress, bar),
                    on_problem=lambda error: count_errors(error is not None),
                    on_answer=answer_watcher(progress),
                )
            )
        except KeyboardInterrupt:
            progress.stop()
            errors.print(f"interrupted: what was judged is saved; to go on: headrace judge {config} --resume")
            raise typer.Exit(130) from None
    console.print(table(plan).rich(console.width))
    console.print(f"wrote {plan.folder}", highlight=False)
    say_failed(errors, failed, f"are not in the table; to try them again: headrace judge {config} --resume")


@app.command()
def serve(
    config: ConfigPath,
    overrides: Overrides = None,
    emit_config: Annotated[
        bool, typer.Option("--emit-config", help="Print it as a file for `serve deploy`, and start nothing.")
    ] = False,
) -> None:
    """Serve an OpenAI-compatible endpoint on Ray Serve."""
    from experiments.running.serve import serve as serve_forever
    from experiments.running.serve import serve_file

    if emit_config:
        print(serve_file(config, overrides or []), end="")
    else:
        serve_forever(config, overrides or [], console)


@key_commands.command("new")
def new_key(
    name: Annotated[str, typer.Argument(help="Whose key it is, or what for.", show_default=False)],
    key_class: Annotated[str, typer.Option("--class", help="A name of keys.classes.")] = "default",
) -> None:
    """Make a key: the first line is the key, shown this once; the second goes into the file of keys."""
    from orchestrator.serving.keys import new_key as make_key

    key, record = make_key(name, key_class)
    print(key)
    print(record.line)


@app.command()
def up(config: ConfigPath, overrides: Overrides = None) -> None:
    """Start a named pool, a policy and a verifier, and leave it running for commands that set pool=NAME."""
    from experiments.running.pool import plan_pool
    from experiments.running.pool import up as start

    plan = plan_pool(config, overrides or [])
    with console.status("starting") as shown:
        record = start(plan, shown.update)
    console.print(
        f"[bold]{record.name}[/] runs on Ray {record.address}\n"
        f"  use it: headrace run CONFIG pool={record.name}\n"
        f"  look at it: headrace status {record.name}; end it: headrace down {record.name}",
        highlight=False,
        soft_wrap=True,
    )


PoolName = Annotated[str | None, typer.Argument(help="A pool; without it, the only one.", show_default=False)]


@app.command()
def status(
    name: PoolName = None,
    watch: Annotated[bool, typer.Option("--watch", help="Again and again, until Ctrl-C.")] = False,
) -> None:
    """Show the replicas of a named pool: where they are, what they do, what they lost."""
    from rich.live import Live

    from experiments.running.pool import statuses

    with statuses(name) as table:
        if not watch:
            console.print(table())
            return
        with Live(table(), console=console, auto_refresh=False) as shown:
            while True:
                shown.update(table(), refresh=True)


@app.command()
def down(name: PoolName = None) -> None:
    """End a named pool and all that it started."""
    from experiments.running.down import down as stop

    with console.status("ending the pool"):
        record = stop(name)
    console.print(f"{record.name} has ended", highlight=False)


@app.command(name="train-prm")
def train_prm(
    config: ConfigPath,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a training that was interrupted.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Begin anew in the same folder.")] = False,
) -> None:
    """Train a verifier on labelled solutions: a streaming PRM, a transformer PRM or an ORM."""
    from experiments.training.prm import train
    from experiments.training.prm_plan import plan_prm

    plan = plan_prm(config, overrides or [], resume=resume, overwrite=overwrite)
    if not train(plan, console, resume=resume):
        errors.print(f"interrupted: saved in {plan.folder}; to go on: headrace train-prm {config} --resume")
        raise typer.Exit(130)


@app.command("train-policy")
def train_policy(
    config: ConfigPath,
    overrides: Overrides = None,
    resume: Annotated[bool, typer.Option("--resume", help="Finish a training that was interrupted.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace this training.")] = False,
) -> None:
    """Train a policy by GRPO with graders and verifiers as rewards, and measure pass@1 before and after."""
    from experiments.training.policy_plan import checkpoint_step, find_checkpoint, plan_policy

    plan = plan_policy(config, overrides or [])
    if plan.warning is not None:
        console.print(f"[yellow]warning:[/] {plan.warning}", highlight=False, soft_wrap=True)
    checkpoint = find_checkpoint(plan, resume=resume, overwrite=overwrite)
    done = 0 if checkpoint is None else checkpoint_step(checkpoint)
    with progress_bar(console) as progress:
        bar = progress.add_task("starting", total=plan.config.num_steps, completed=done, errors="")
        try:
            from experiments.training.grpo import train  # takes its time

            outcome = train(
                plan,
                checkpoint,
                on_stage=stages(progress, bar),
                on_step=lambda step, logs: progress.update(
                    bar, completed=step, description=f"training, reward {logs['reward']:.3f}"
                ),
                on_answer=answer_watcher(progress),
            )
        except KeyboardInterrupt:
            progress.stop()
            errors.print(f"interrupted; to finish: headrace train-policy {config} --resume")
            raise typer.Exit(130) from None
    if outcome is not None:
        console.print(str(outcome), highlight=False, soft_wrap=True)
    console.print(f"the policy, its metrics and a picture are in {plan.folder}", highlight=False)


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Argument(help="A YAML file, see configs/.", show_default=False)] = None,
    overrides: Overrides = None,
    address: Annotated[
        str | None, typer.Option(help="Of a Ray cluster; without it, ray.address.", show_default=False)
    ] = None,
) -> None:
    """Say what this machine, or every node of a Ray cluster, has and what is missing."""
    from experiments.clusters.doctor import doctor as examine_cluster
    from experiments.clusters.doctor import examine_here
    from experiments.clusters.wanted import wanted_of
    from experiments.doctor import doctor as examine

    wanted = wanted_of(config, overrides or [], address)
    if wanted.ray.address is None:
        raise typer.Exit(examine(console, examine_here(wanted)))
    raise typer.Exit(examine_cluster(console, wanted))


def main() -> None:
    """Entry point: turns errors into messages and exit codes."""
    try:
        app()
    except UserError as error:
        errors.print(f"[red]error:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(2)
    except HeadraceError as error:
        errors.print(f"[red]failed:[/] {escape(str(error))}", highlight=False, soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)

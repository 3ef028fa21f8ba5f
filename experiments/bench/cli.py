"""The commands `headrace bench NAME`, one per promise. A command that is asked for imports its benchmark, no other."""

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from experiments.bench.core import Measured, recorded, write
from orchestrator.core.errors import UserError

app = typer.Typer(
    no_args_is_help=True,
    help="Measure one promise as a ratio to a baseline of the same run, into results/bench/NAME.json.",
)
console = Console()
say = partial(console.print, highlight=False, markup=False, soft_wrap=True)

Repeats = Annotated[int, typer.Option(help="Interleaved repeats.", min=1)]
Out = Annotated[Path, typer.Option(help="Folder of the JSON file.")]
Policy = Annotated[str | None, typer.Option(help="Checkpoint folder; without it, the tiny pair.")]
Problems = Annotated[
    int | None, typer.Option(help="With --policy: problems of a repeat, all in flight; 16 by default.", min=1)
]
Recording = Annotated[Path, typer.Option(help="Results folder of a run with samples.")]
OUT, RECORDING = Path("results/bench"), Path("results/tinymath")


@app.command()
def orchestration(repeats: Repeats = 5, policy: Policy = None, problems: Problems = None, out: Out = OUT) -> None:
    """What pools, sessions and Ray cost: best-of-16 through them against the bare vLLM engine."""
    from experiments.bench.orchestration import measure

    _of_engines("orchestration", measure, repeats, policy, None, problems, out)


@app.command()
def beam(
    repeats: Repeats = 5,
    policy: Policy = None,
    verifier: Annotated[
        str | None,
        typer.Option(help="With --policy: folder of a streaming PRM, or random-mamba2-130m (timing only)."),
    ] = None,
    problems: Problems = None,
    pool: Annotated[
        str | None, typer.Option(help="A named pool of the same models; without it, replicas of its own.")
    ] = None,
    out: Out = OUT,
) -> None:
    """PRM-guided beam search against best-of-16 with the same verifier, and against the usual beam search."""
    from experiments.bench.beam import measure

    if verifier is not None and policy is None:
        raise UserError("bench: --verifier goes with --policy, whose tokens it reads, got no --policy")
    _of_engines("beam", partial(measure, pool=pool), repeats, policy, verifier, problems, out)


@app.command()
def attach(repeats: Repeats = 5, out: Out = OUT) -> None:
    """From the start of a command to its first token: models that it loads, against a named pool."""
    from experiments.bench.attach import measure

    _live("attach", measure(repeats=repeats, on_repeat=say), out)


@app.command()
def driver(
    repeats: Repeats = 5,
    pools: Annotated[bool, typer.Option("--pools", help="Through the real pools and Ray, all its threads.")] = False,
    out: Out = OUT,
) -> None:
    """Steps that a driver does in a CPU second, with a policy and a verifier that answer at once."""
    from experiments.bench import driver as alone
    from experiments.bench.control_plane import at_once

    bench = at_once if pools else alone
    _live("driver-pools" if pools else "driver", bench.measure(repeats=repeats, on_repeat=say), out)


@app.command("control_plane")
def control_plane(
    repeats: Repeats = 5,
    full: Annotated[bool, typer.Option("--full", help="All cells, in five times the minutes.")] = False,
    out: Out = OUT,
) -> None:
    """What a step costs drivers, replicas and Ray, by numbers of drivers and of replicas without models."""
    from experiments.bench.control_plane.run import FULL, QUICK, measure

    measuring = measure(repeats=repeats, on_repeat=say, cells=FULL if full else QUICK)
    _live("control_plane-full" if full else "control_plane", measuring, out)


@app.command()
def fairness(repeats: Repeats = 5, out: Out = OUT) -> None:
    """Whether drivers that share an engine get equal shares of it, and what a dead one leaves behind."""
    from experiments.bench.fairness import measure

    _live("fairness", measure(repeats=repeats, on_repeat=say), out)


@app.command()
def faults(
    num_faults: Annotated[int, typer.Option("--faults", help="How many strike.", min=1)] = 200,
    seed: Annotated[int, typer.Option(help="Which, and when.", min=0)] = 0,
    out: Out = OUT,
) -> None:
    """Strike every part of runs over three Ray nodes at random times, and check rows, scores and what is left."""
    from experiments.bench.faults.measure import measure

    _live("faults", measure(faults=num_faults, seed=seed, say=say), out)


@app.command()
def serve(repeats: Repeats = 5, out: Out = OUT) -> None:
    """What the endpoint costs a request: requests/s and latencies by clients, against vLLM's own server."""
    from experiments.bench.serve import measure

    _live("serve", measure(repeats=repeats, on_repeat=say), out)


@app.command()
def soak(minutes: Annotated[float, typer.Option(help="Of load.", min=1)] = 30, out: Out = OUT) -> None:
    """Whether the memory of any process grows under the load of two drivers."""
    from experiments.bench.soak import measure

    _live("soak", measure(minutes=minutes, on_repeat=say), out)


@app.command("serve_soak")
def serve_soak(minutes: Annotated[float, typer.Option(help="Of load.", min=1)] = 15, out: Out = OUT) -> None:
    """Whether the memory of any process of the endpoint grows under load, and what clients that leave leave behind."""
    from experiments.bench.serve_soak import measure

    _live("serve_soak", measure(minutes=minutes, on_repeat=say), out)


@app.command()
def verifier(repeats: Repeats = 5, out: Out = OUT) -> None:
    """What scoring a step costs as a trajectory grows: a carried state, the prefix read again, a KV cache."""
    from experiments.bench.verifier import measure

    _live("verifier", measure(repeats=repeats, on_repeat=say), out)


@app.command()
def stream(repeats: Repeats = 5, out: Out = OUT) -> None:
    """Whether cost per token or memory grow in a trajectory of 200,000 tokens."""
    from experiments.bench.stream import measure

    _live("stream", measure(repeats=repeats, on_repeat=say), out)


@app.command()
def adaptive(recording: Recording = RECORDING, out: Out = OUT) -> None:
    """Samples that adaptive strategies need for the accuracy of uniform sampling, over recorded samples."""
    from experiments.bench.adaptive import GOAL, baseline_of, measure

    with console.status("measuring adaptive"):
        found = measure(recording)
        _tell("adaptive", recorded(found, baseline_of(found), GOAL, recording), out)


@app.command("early_stop")
def early_stop(recording: Recording = RECORDING, out: Out = OUT) -> None:
    """Tokens that early stopping saves against best-of-16, over recorded samples."""
    from experiments.bench.early_stop import BASELINE, GOAL, measure

    with console.status("measuring early_stop"):
        _tell("early_stop", recorded(measure(recording), BASELINE, GOAL, recording), out)


def _of_engines(
    name: str,
    measure: Callable[..., Coroutine[Any, Any, Measured]],
    repeats: int,
    policy: str | None,
    verifier: str | None,
    problems: int | None,
    out: Path,
) -> None:
    """Of the tiny pair, or of what the user names. Raises UserError."""
    from experiments.bench.foreign import NUM_PROBLEMS, subject_of

    if problems is not None and policy is None:
        raise UserError("bench: --problems goes with --policy, got no --policy")
    with subject_of(policy, verifier, problems or NUM_PROBLEMS) as subject:
        file = name if policy is None else f"{name}-{subject.name}"
        _live(file, measure(subject, repeats=repeats, on_repeat=say), out)


def _live(name: str, measuring: Coroutine[Any, Any, Measured], out: Path) -> None:
    with console.status(f"measuring {name}"):
        _tell(name, asyncio.run(measuring), out)


def _tell(name: str, measured: Measured, out: Path) -> None:
    path = write(name, measured, out)
    say(
        f"{name}: {measured.ratio:.3g} [{measured.ratio_min:.3g}, {measured.ratio_max:.3g}], "
        f"goal {measured.goal}, against {measured.baseline}; wrote {path}"
    )

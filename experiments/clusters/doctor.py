"""The doctor's rounds of a cluster: this machine, then every node."""

import asyncio
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments.clusters.findings import node_findings
from experiments.clusters.node import NodeProbe, files_of
from experiments.clusters.nodes import ANSWER_S, ask_nodes
from experiments.clusters.wanted import Wanted
from experiments.doctor import Finding, Level, coloured
from orchestrator.cluster import connected
from orchestrator.core.errors import UserError
from orchestrator.serving.http_server import listen


def doctor(console: Console, wanted: Wanted) -> int:
    """Prints the findings; 0 when nothing is missing, else 1. Raises UserError where no cluster is at the address."""
    findings = examine(wanted)
    table = Table("what", "where", "", "got", "wanted", "how to fix", title=f"headrace doctor: {wanted.ray.address}")
    for finding in findings:
        texts = (finding.found, finding.wanted, finding.advice)
        table.add_row(finding.what, finding.where or "here", coloured(finding.level), *map(escape, texts))
    console.print(table)
    missing = list(dict.fromkeys(f"{f.what} ({f.where or 'here'})" for f in findings if f.level is Level.MISSING))
    console.print(f"missing: {', '.join(missing)}" if missing else "this cluster can run it", highlight=False)
    return 1 if missing else 0


def examine(wanted: Wanted, answer_s: float = ANSWER_S) -> Sequence[Finding]:
    """Of this machine, and of every node. Raises UserError where no cluster is at the address."""
    results = os.path.abspath(wanted.results)
    folders = [folder.path for folder in wanted.folders]
    findings = list(_endpoint(wanted))
    with connected(wanted.ray, 0), ExitStack() as stack:
        try:
            probe = stack.enter_context(_probe_file(results))
        except OSError as error:
            advice = "set results_dir to a folder that you may write to"
            return [*findings, Finding(what="results", level=Level.MISSING, found=str(error), advice=advice)]
        here = NodeProbe().report(folders, results, probe)
        reports = asyncio.run(ask_nodes(folders, results, probe, answer_s))
    for report in reports:
        findings += node_findings(report, here, wanted)
    return findings


def examine_here(wanted: Wanted) -> Iterator[Finding]:
    """What a configuration wants of this machine, where it has a Ray of its own."""
    yield from _endpoint(wanted)
    for folder in wanted.folders:
        got = files_of(folder.path)
        if isinstance(got, str):
            yield Finding(what=folder.key, level=Level.MISSING, found=got, advice="a folder that can be read")
        else:
            yield Finding(what=folder.key, level=Level.OK, found=f"{len(got)} files")


def _endpoint(wanted: Wanted) -> Iterator[Finding]:
    """It listens on the node where `headrace serve` is started."""
    if wanted.endpoint is None:
        return
    host, port = wanted.endpoint
    try:
        listen(host, port).close()
    except UserError as error:
        yield Finding(what="port", level=Level.MISSING, found=str(error), wanted=f"{port} is free", advice="port=...")
    else:
        yield Finding(what="port", level=Level.OK, found=f"{port} is free", wanted=f"{port} is free")


@contextmanager
def _probe_file(results: str) -> Iterator[str]:
    """A file in the results folder; that and what had to be made for it are removed at the end. Raises OSError where no
    file can be made there."""
    made: list[Path] = []
    folder = Path(results)
    try:
        for missing in [parent for parent in (folder, *folder.parents) if not parent.exists()][::-1]:
            missing.mkdir()
            made.append(missing)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as probe:
            yield probe.name
    finally:
        with suppress(OSError):  # a run has begun there meanwhile
            for each in made[::-1]:
                each.rmdir()

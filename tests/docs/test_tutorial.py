"""The tutorial as a reader does it: the files are written and the commands run, in their order.

By default the engines are a scripted policy and a table; `make engines` runs every command as it stands.
"""

import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import pytest

from experiments import cli
from experiments.running import models
from experiments.running import run as running
from orchestrator.results import read_results
from tests.docs.pages import ROOT, Block, blocks
from tests.docs.test_commands import commands
from tests.fakes import ScriptedPolicy, TableVerifier

TUTORIAL = ROOT / "docs" / "tutorial.md"
RUNS = {"first": 3, "mine": 3, "own": 2}  # and their strategies


class Solver(ScriptedPolicy):
    """Answers 48 in two steps, whatever is asked."""

    def __init__(self) -> None:
        super().__init__({"How many now?": ["58 - 10 = 48\n\nAnswer: 48"], "\n\n": ["Answer: 48"]})

    async def stats(self) -> list[dict[str, int]]:
        return [{"generated_tokens": 0, "preemptions": 0}]


def follow(folder: Path, do: Callable[[Block], None]) -> None:
    """Writes each file of the tutorial, and hands over each block of commands."""
    for block in blocks(TUTORIAL):
        if block.title is not None:
            (folder / block.title).write_text(block.text + "\n")
        elif block.language == "bash":
            do(block)


def check_runs(folder: Path) -> None:
    for name, num_strategies in RUNS.items():
        problems, _ = read_results(folder / "results" / name)
        assert (problems.status == "ok").all() and problems.label.nunique() == num_strategies, name
        assert (folder / "results" / name / "report.md").exists()


def test_the_tutorial_runs_with_scripted_engines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def judging(*_: object, **__: object) -> TableVerifier:
        return TableVerifier(lambda text: 0.5)

    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "experiments").symlink_to(ROOT / "experiments")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(running, "connected", lambda *_: nullcontext())
    monkeypatch.setattr(models, "open_policy", lambda *_: nullcontext(Solver()))
    monkeypatch.setattr(models, "open_verifier", judging)

    def do(block: Block) -> None:
        for words in commands(block):
            match words:
                case ["make" | "source", *_]:
                    pass
                case ["cp", *arguments]:
                    subprocess.run(["cp", *arguments], check=True)
                case ["python", program]:
                    runpy.run_path(program)
                case ["headrace", *_]:
                    monkeypatch.setattr(sys, "argv", words)
                    with pytest.raises(SystemExit) as ended:
                        cli.main()
                    assert not ended.value.code, (words, capsys.readouterr())
                case _:
                    pytest.fail(f"{block}: what is {words[0]}?")

    follow(tmp_path, do)
    check_runs(tmp_path)
    assert "this machine can run `headrace run configs/demo.yaml`" in " ".join(capsys.readouterr().out.split())


@pytest.mark.engines
@pytest.mark.timeout(3600)
def test_every_command_of_the_tutorial_runs_as_it_stands(tmp_path: Path) -> None:
    for name in ("configs", "experiments", ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    lines = ["set -eu"]
    follow(tmp_path, lambda block: lines.extend(block.text.replace("make install", "").splitlines()))
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(tmp_path)])}
    subprocess.run(["bash", "-c", "\n".join(lines)], cwd=tmp_path, env=environment, check=True)
    check_runs(tmp_path)

"""The sweeps that ship: a dry run accepts every command in them, on a machine that has no model and no network."""

import re
import sys

import pytest

from experiments import cli
from experiments.config import PROJECT_ROOT

FILES = [PROJECT_ROOT / "configs" / "sweep.yaml", *sorted((PROJECT_ROOT / "configs" / "ready").glob("*.yaml"))]
COMMANDS = [
    pytest.param(command.split()[2:], id=f"{file.stem}-{number}")
    for file in FILES[1:]
    for number, command in enumerate(re.findall(r"headrace sweep \S+.*", file.read_text()))
]


@pytest.fixture
def dry_run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)  # nothing is here

    def run(path, *overrides):
        monkeypatch.setattr(sys, "argv", ["headrace", "sweep", str(PROJECT_ROOT / path), *overrides, "--dry-run"])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        captured = capsys.readouterr()
        assert (exit_.value.code or 0) == 0, captured.err
        return captured.out

    return run


def test_there_is_a_file_for_each_model_family_and_a_command_for_1_8_and_64_gpus():
    assert [file.stem for file in FILES[1:]] == ["deepseek_r1", "llama", "qwen_math"]
    for file in FILES[1:]:
        assert re.findall(r"#   (\d+) GPU", file.read_text()) == ["1", "8", "64"]


@pytest.mark.parametrize("command", COMMANDS)
def test_a_ready_command_lists_its_cells_and_says_what_is_not_here(dry_run, command):
    out = dry_run(*command)
    assert "all cells" in out and "not here" in out and "no folder models/" in " ".join(out.split())
    assert "Traceback" not in out


def test_the_sweep_of_the_tiny_pair_needs_the_models_for_two_of_its_four_cells(dry_run):
    out = dry_run("configs/sweep.yaml")
    assert re.search(r"1\.0 · vote +0 +300 +0 +0 +0 +0", out)
    assert "not here" not in out

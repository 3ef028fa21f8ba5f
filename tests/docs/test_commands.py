"""Every command of the pages is one that exists, with options that it has and a configuration that it takes."""

import importlib.util
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from experiments.cli import app
from experiments.config import RunConfig, load_yaml, make_strategies
from experiments.judging.run import JudgeConfig
from experiments.labelling.config import LabelConfig
from experiments.replay.run import ReplayConfig
from experiments.running.pool import PoolConfig
from experiments.sweeping.cells import read_sweep
from experiments.training.policy_plan import TrainPolicyConfig
from experiments.training.prm_plan import TrainConfig
from orchestrator.serving.config import ServeConfig
from orchestrator.serving.dialects import DIALECTS
from tests.docs.pages import ROOT, Block, all_blocks, blocks

CONFIGS: dict[str, type[Any]] = {
    "run": RunConfig,
    "replay": ReplayConfig,
    "label": LabelConfig,
    "judge": JudgeConfig,
    "serve": ServeConfig,
    "up": PoolConfig,
    "train-prm": TrainConfig,
    "train-policy": TrainPolicyConfig,
}
ASSIGNMENT = re.compile(r"[A-Z_]+=")


def commands(block: Block) -> list[list[str]]:
    """The words of each command; one may go over several lines."""
    found, open_lines = [], ""
    for line in block.text.splitlines():
        open_lines += line.removesuffix("\\") if line.endswith("\\") else f"{line}\n"
        try:
            words = shlex.split(open_lines, comments=True)
        except ValueError:  # a quote that is still open
            continue
        if line.endswith("\\"):
            continue
        open_lines = ""
        while words and ASSIGNMENT.match(words[0]):
            del words[0]
        if words:
            found.append(words)
    assert not open_lines, f"{block}: the last command has no end"
    return found


def written(block: Block) -> dict[str, str]:
    """The files that the reader of the page has written."""
    return {other.title: other.text for other in blocks(block.page) if other.title is not None}


def parsed(arguments: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """The names of the command and the values of its parameters. Raises click's error for what it does not take."""
    command, names, words = typer.main.get_command(app), [], list(arguments)
    context = None
    while hasattr(command, "commands") and words:
        context = command.make_context(words[0], [], parent=context, resilient_parsing=True)
        name, command, words = command.resolve_command(context, words)
        names.append(name)
    if hasattr(command, "commands"):
        return names, {}  # a group alone lists its commands
    return names, command.make_context(names[-1], list(words), parent=context).params


def check_headrace(arguments: list[str], block: Block, tmp_path: Path) -> None:
    names, params = parsed(arguments)
    given, overrides = str(params.get("config")), params.get("overrides") or []
    if given == "None" or given.isupper():
        return  # none, or CONFIG: the reader's own
    path = ROOT / given
    if given in written(block):
        path = tmp_path / given
        path.write_text(written(block)[given])
    if names[0] == "sweep":
        assert read_sweep(path, overrides).cells
        return
    schema = CONFIGS.get(names[0], RunConfig)
    config, _ = load_yaml(path, schema, overrides)
    if schema in (RunConfig, ReplayConfig):
        make_strategies(config.strategies)


def check_make(arguments: list[str], block: Block, tmp_path: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    for word in arguments:
        name, is_variable, _ = word.partition("=")
        assert re.search(rf"^{name} \?=" if is_variable else rf"^{name}:", makefile, re.MULTILINE), word


def check_python(arguments: list[str], block: Block, tmp_path: Path) -> None:
    if arguments[0] == "-m":
        assert importlib.util.find_spec(arguments[1]) is not None, arguments[1]
    else:
        assert arguments[0] in written(block), f"no block has the title {arguments[0]}"


def check_curl(arguments: list[str], block: Block, tmp_path: Path) -> None:
    body = json.loads(arguments[arguments.index("-d") + 1])
    [dialect] = [dialect for dialect in DIALECTS if arguments[0].endswith(dialect.path)]
    dialect.request.model_validate(body)


def check_source(arguments: list[str], block: Block, tmp_path: Path) -> None:
    assert arguments == [".venv/bin/activate"]


def check_cp(arguments: list[str], block: Block, tmp_path: Path) -> None:
    assert (ROOT / arguments[-2]).exists()


def check_vllm(arguments: list[str], block: Block, tmp_path: Path) -> None:
    """tests/orchestrator/policy/engines/test_documented_servers.py has vLLM read those of docs/policies.md."""
    assert f"`{shlex.join(['vllm', *arguments])}`" in (ROOT / "docs" / "policies.md").read_text()


def check_serve(arguments: list[str], block: Block, tmp_path: Path) -> None:
    """Ray's own command; tests/experiments/running/test_proxied.py runs the application."""
    run, target, config = arguments
    assert run == "run" and importlib.util.find_spec(target.partition(":")[0]) is not None
    load_yaml(ROOT / config.removeprefix("config="), ServeConfig)


def check_lm_eval(arguments: list[str], block: Block, tmp_path: Path) -> None:
    """`make test-clients` runs it against the endpoint, with tasks of its own."""
    program = "".join(path.read_text() for path in (ROOT / "tests" / "clients").rglob("*.py"))
    assert arguments[arguments.index("--model") + 1] in program and "tokenizer=" in program


def check_hf(arguments: list[str], block: Block, tmp_path: Path) -> None:
    """Puts a model where a configuration reads it."""
    download, _, option, folder = arguments
    assert (download, option) == ("download", "--local-dir")
    assert any(f"model: {folder}" in path.read_text() for path in (ROOT / "configs").rglob("*.yaml")), folder


CHECKS = {
    "headrace": check_headrace,
    "make": check_make,
    "python": check_python,
    "curl": check_curl,
    "source": check_source,
    "cp": check_cp,
    "vllm": check_vllm,
    "serve": check_serve,
    "lm_eval": check_lm_eval,
    "hf": check_hf,
}


@pytest.mark.parametrize("block", all_blocks("bash"), ids=str)
def test_every_command_exists_and_takes_what_it_is_given(block: Block, tmp_path: Path) -> None:
    for program, *arguments in commands(block):
        assert Path(program).name in CHECKS, f"{program}: nothing here says how to check it"
        CHECKS[Path(program).name](arguments, block, tmp_path)


@pytest.mark.parametrize(
    "command",
    [
        "headrace rum configs/demo.yaml",
        "headrace run configs/demo.yaml --resum",
        "headrace run configs/none.yaml",
        "headrace run configs/demo.yaml polcy.replicas=2",
        "headrace run configs/demo.yaml strategies.1.m=2",
        "headrace bench speeed",
        "make tests",
        "make install EXTRAS=cuda",
        "python -m experiments.none",
        "python none.py",
        "vllm serve MODEL --faster",
    ],
)
def test_a_command_that_does_not_exist_would_be_seen(command: str, tmp_path: Path) -> None:
    block = Block(page=ROOT / "README.md", line=1, language="bash", info="", text=command)
    [(program, *arguments)] = commands(block)
    with pytest.raises(Exception):  # noqa: B017 - of the command line, of the configuration, or an assertion
        CHECKS[program](arguments, block, tmp_path)

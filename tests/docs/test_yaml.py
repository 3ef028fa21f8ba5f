"""Every piece of YAML in the pages parses, and its keys are known where it would stand."""

import re
from pathlib import Path
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.config import RunConfig, make_strategies, typed_config
from experiments.sweeping.cells import read_sweep
from orchestrator.core.errors import UserError
from orchestrator.serving.config import ServeConfig
from orchestrator.typed import typed
from tests.docs.pages import Block, all_blocks
from verifiers import VERIFIERS

POLICY = {"model": "folder"}
# What a file of each kind must have, so that a fragment of it can be read.
REQUIRED: dict[type[Any], dict[str, Any]] = {
    RunConfig: {
        "name": "x",
        "data": {"name": "tinymath"},
        "policy": POLICY,
        "strategies": [{"name": "greedy"}],
    },
    ServeConfig: {"alias": "x", "policy": POLICY},
}


def fragments(text: str) -> list[dict[str, Any]]:
    """What the block holds; where it lists alternatives under one key, each is a fragment of its own."""
    parts = re.split(r"^(?=\w+:)", text, flags=re.MULTILINE)
    found: list[dict[str, Any]] = [{}]
    for part in filter(str.strip, parts):
        value = OmegaConf.to_container(OmegaConf.create(part))
        assert isinstance(value, dict), part
        if value.keys() & found[-1].keys():
            found.append({})
        found[-1] |= {str(key): item for key, item in value.items()}
    return found


def check(fragment: dict[str, Any]) -> None:
    """Raises UserError where no file would take it."""
    refusals = []
    for schema, required in REQUIRED.items():
        made = {key: value for key, value in required.items() if key != "policy"} | fragment
        made["policy"] = POLICY | fragment.get("policy", {})
        try:
            config, _ = typed_config(schema, OmegaConf.create(made))
        except UserError as error:
            refusals.append(str(error))
            continue
        if schema is RunConfig:
            make_strategies(config.strategies)
        return
    raise UserError("; ".join(refusals))


def check_verifier(verifier: dict[str, Any], page: str) -> None:
    name = verifier.get("name", "streaming_prm")
    if f'VERIFIERS["{name}"] = ' not in page:  # which the page itself adds
        typed(VERIFIERS[name].options, verifier.get("options", {}))


@pytest.mark.parametrize("block", all_blocks("yaml"), ids=str)
def test_every_key_is_known(block: Block, tmp_path: Path) -> None:
    for fragment in fragments(block.text):
        if "sweep" in fragment:
            (tmp_path / "sweep.yaml").write_text(block.text)
            assert read_sweep(tmp_path / "sweep.yaml").cells
            continue
        check(fragment)
        if fragment.get("verifier") is not None:
            check_verifier(fragment["verifier"], block.page.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "text",
    [
        "polcy: {model: folder}",
        "policy: {modle: folder}",
        "data: {name: jsonl, file: x}",
        "strategies: [{name: best_of_m}]",
        "ray: {adress: auto}",
    ],
)
def test_a_key_that_is_not_known_would_be_seen(text: str) -> None:
    with pytest.raises(UserError):
        check(*fragments(text))

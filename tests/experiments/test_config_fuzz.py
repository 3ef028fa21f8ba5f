"""Every key of every shipped configuration with values that do not fit: each is taken, or refused in one message."""

import copy
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
from omegaconf import OmegaConf

from experiments.config import PROJECT_ROOT, RunConfig, make_strategies, typed_config
from experiments.judging.run import JudgeConfig
from experiments.labelling.config import LabelConfig
from experiments.training.policy_plan import TrainPolicyConfig
from experiments.training.prm_plan import TrainConfig
from orchestrator.core.errors import UserError
from orchestrator.serving.config import ServeConfig
from orchestrator.verifier.resolve import resolve

SCHEMAS: dict[str, type[Any]] = {
    "demo": RunConfig,
    "serve": ServeConfig,
    "label": LabelConfig,
    "verifiers": JudgeConfig,
    "train_prm": TrainConfig,
    "train_policy": TrainPolicyConfig,
}
NEVER_MEANT: list[Any] = [float("nan"), 2**64, "\boxed"]
ODD: list[Any] = [[], None, {}, "x", {"a": {"b": 1}}, True]


def keys(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from keys(item, (*path, key))


def changed(config: Any, path: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(config)
    parent = made
    for key in path[:-1]:
        parent = parent[key]
    parent[path[-1]] = value
    return made


def load(schema: type[Any], given: Any) -> None:
    """As far as a plan goes without data and models."""
    config, _ = typed_config(schema, OmegaConf.create(given))
    if isinstance(config, RunConfig):
        make_strategies(config.strategies)
    if getattr(config, "verifier", None) is not None:
        resolve(config.verifier)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_value_that_does_not_fit_is_taken_or_is_the_users_error(name: str) -> None:
    config = OmegaConf.to_container(OmegaConf.load(PROJECT_ROOT / "configs" / f"{name}.yaml"))
    tried = 0
    for index, path in enumerate(keys(config)):
        for value in (NEVER_MEANT[index % len(NEVER_MEANT)], *ODD[index % 2 :: 2]):  # each key gets half of them
            refused = _refusal(partial(load, SCHEMAS[name], changed(config, path, value)))
            tried += 1
            if any(value is odd for odd in NEVER_MEANT):
                assert refused is not None and str(path[-1]) in refused, (path, value, refused)
    assert tried > 50


def _refusal(call: Callable[[], None]) -> str | None:
    """What a UserError says; every other error is ours."""
    try:
        call()
    except UserError as error:
        return str(error)
    return None


@pytest.mark.parametrize("name", [name for name in SCHEMAS if hasattr(SCHEMAS[name], "seed")])
def test_a_negative_seed_is_the_users_error(name: str) -> None:
    config: Any = OmegaConf.to_container(OmegaConf.load(PROJECT_ROOT / "configs" / f"{name}.yaml"))
    with pytest.raises(UserError, match="seed: wanted a seed >= 0, got -1"):
        typed_config(SCHEMAS[name], OmegaConf.create(config | {"seed": -1}))

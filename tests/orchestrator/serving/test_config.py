"""The endpoint's limits and addresses: what can't be is refused by name."""

from typing import Any

import pytest

from orchestrator.core.config import PolicyConfig
from orchestrator.core.ledger import Budget
from orchestrator.core.protocols import Sampling
from orchestrator.serving.config import Effort, Limits, ServeConfig
from orchestrator.serving.key_classes import KeyClass


@pytest.mark.parametrize(
    "field",
    [
        "max_n",
        "max_tokens",
        "max_body_bytes",
        "body_timeout_s",
        "max_messages",
        "max_prompt_tokens",
        "max_concurrent",
        "queue_timeout_s",
        "timeout_s",
        "drain_s",
    ],
)
def test_limits_must_be_positive(field: str) -> None:
    with pytest.raises(ValueError, match=f"limits: {field} must be"):
        Limits(**{field: 0})


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"alias": ""}, "alias"),
        ({"alias": "a@b"}, "alias"),
        ({"port": 0}, "port: wanted 1 to 65535, got 0"),
        ({"port": 65536}, "port"),
        ({"keep_alive_s": 0}, "keep_alive_s"),
        ({"sampling": Sampling(max_tokens=5000)}, "limits.max_tokens=4096, got 5000"),
    ],
)
def test_a_bad_value_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ServeConfig(**{"alias": "tiny", "policy": PolicyConfig(model="m"), **fields})


@pytest.mark.parametrize(
    ("fields", "words"),
    [({"params": {"n": 4}}, "params are of a strategy, got none and params n"), ({"max_thinking_tokens": 0}, ">= 1")],
)
def test_a_bad_effort_is_named(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"efforts: .*{words}"):
        Effort(**fields)


@pytest.mark.parametrize(("own", "cap"), [(None, 12), (100, 12), (5, 5)])
def test_a_request_has_at_most_the_tokens_of_as_many_candidates_as_it_may_have(own: int | None, cap: int) -> None:
    config = ServeConfig(
        alias="tiny",
        policy=PolicyConfig(model="m"),
        sampling=Sampling(max_tokens=4),
        limits=Limits(max_n=3, max_tokens=4),
        budget=Budget(policy_tokens=own, candidates=7),
    )
    assert config.request_budget == Budget(policy_tokens=cap, candidates=7)


@pytest.mark.parametrize("name", ["max_in_flight", "tokens_per_minute", "max_n"])
def test_limits_of_a_class_of_keys_must_be_positive(name: str) -> None:
    with pytest.raises(ValueError, match=f"keys.classes: {name} must be >= 1"):
        KeyClass(**{name: 0})


def test_a_queue_may_have_no_room_and_not_less() -> None:
    assert Limits(max_queued=0).max_queued == 0
    with pytest.raises(ValueError, match="limits: max_queued must be >= 0"):
        Limits(max_queued=-1)

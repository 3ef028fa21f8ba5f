"""Requests as a dialect reads them, over a catalog and a configuration of a server with a verifier."""

from typing import Any

import pytest
from pydantic_core import to_json

from orchestrator.core.config import PolicyConfig
from orchestrator.core.ledger import Budget
from orchestrator.core.protocols import Sampling
from orchestrator.serving.catalog import Catalog
from orchestrator.serving.config import Effort, Limits, ServeConfig
from orchestrator.serving.dialects.contract import Dialect, ServingContext
from orchestrator.serving.dialects.fields import read_object
from orchestrator.serving.errors import ApiError
from orchestrator.serving.orders import Order
from strategies import STRATEGIES

CONFIG = ServeConfig(
    alias="tiny",
    policy=PolicyConfig(model="m"),
    default_strategy="greedy",
    sampling=Sampling(temperature=0.7, top_p=0.9, max_tokens=100),
    limits=Limits(max_tokens=200, max_messages=4, max_concurrent=3, timeout_s=60),
    efforts={
        "low": Effort(max_thinking_tokens=5, chat_template_kwargs={"enable_thinking": False}),
        "high": Effort(strategy="best_of_n", params={"n": 8}, budget=Budget(policy_tokens=500)),
    },
)
SHOP = ServingContext(
    catalog=Catalog(
        alias="tiny", default_strategy="greedy", strategies=STRATEGIES, params={}, has_verifier=True, max_n=64
    ),
    config=CONFIG,
)


def parsed(dialect: Dialect, body: bytes) -> Order:
    return dialect.order(read_object(body), "r1", SHOP)


def refusal(dialect: Dialect, body: bytes | dict[str, Any]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        parsed(dialect, body if isinstance(body, bytes) else to_json(body))
    return caught.value

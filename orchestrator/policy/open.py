"""Opens the policy that a configuration names: replicas of an engine, or a chat API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.policy.opened import OpenPolicy
from orchestrator.policy.pool import PolicyPool
from orchestrator.policy.resolve import is_chat_api
from orchestrator.replicas.members import Kept

POLICY_PART = "policy"  # of a named pool


@asynccontextmanager
async def open_policy(config: PolicyConfig, steps: StepConfig, kept: Kept | None = None) -> AsyncIterator[OpenPolicy]:
    """Ready to write; leaving ends it, or leaves it to its keeper. Ray must be initialised. Raises UserError and
    ReplicaError."""
    if is_chat_api(config):
        from orchestrator.policy.chat import ChatPolicy  # the client takes seconds to import

        async with ChatPolicy.open(config) as chat:
            yield chat
    elif kept is not None:
        async with PolicyPool.attached(config, await kept.membership(POLICY_PART), kept.client) as pool:
            yield pool
    else:
        async with PolicyPool.open(config, steps) as pool:
            yield pool

"""Opens the policy that a configuration names: replicas of an engine, or a chat API."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from orchestrator.core.config import PolicyConfig, StepConfig
from orchestrator.policy.opened import OpenPolicy
from orchestrator.policy.pool import PolicyPool
from orchestrator.policy.resolve import is_chat_api


@asynccontextmanager
async def open_policy(config: PolicyConfig, steps: StepConfig) -> AsyncIterator[OpenPolicy]:
    """Ready to write; leaving ends it. Ray must be initialised. Raises UserError and ReplicaError."""
    if is_chat_api(config):
        from orchestrator.policy.chat import ChatPolicy  # the client takes seconds to import

        async with ChatPolicy.open(config) as chat:
            yield chat
    else:
        async with PolicyPool.open(config, steps) as pool:
            yield pool
